//! Whole jobs through the library: every method to its end, stopped and continued, and refused.

use std::fs;

use cpift_engine::Mask;
use cpift_model::checkpoint::Checkpoint;
use cpift_model::progress::{Column, Silent};
use cpift_model::recipe::Stage;
use cpift_model::{Error, Recipe};
use cpift_tests::jobs::{SmallJob, TASKS, Watcher};
use serde_json::{Value, json};

const WEIGHTS: &str = "model.safetensors";

#[test]
fn cpift_runs_every_stage_and_keeps_its_promises() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let report = job.run(&recipe, "run", false, &mut Silent).unwrap();

    assert_eq!(report.columns, [Column::Base, Column::Probe, Column::Fused, Column::Final]);
    assert!(report.tasks.iter().all(|task| task.scores.iter().all(Option::is_some)));
    assert_eq!(report.steps, 3 * 4 + 6);

    // Exact k per task; in the fused model a core of one task alone is that task's, bit for bit.
    let cores: Vec<Mask> = TASKS.iter().map(|task| job.core("run", task)).collect();
    let parameters = Checkpoint::open(&job.path("run/fused")).unwrap().layout().parameters();
    let fused = job.weights("run/fused");
    for (index, task) in TASKS.iter().enumerate() {
        assert_eq!(cores[index].count(), (0.05 * parameters as f64) as usize);
        let model = job.weights(&format!("run/probe/{task}"));
        let alone = (0..cores.len())
            .filter(|&other| other != index)
            .fold(cores[index].clone(), |mask, other| mask.and_not(&cores[other]).unwrap());
        assert!(alone.count() > 0);
        assert!(alone.indices().all(|j| fused[j].to_bits() == model[j].to_bits()));
    }

    // Stage 4: with three groups, the first group's core was frozen in the last two parts, the second's in
    // the last; the sum of both is what was verified.
    let groups: serde_json::Value = serde_json::from_slice(&job.bytes("run/groups.json")).unwrap();
    let first = &cores[groups["groups"][0][0].as_u64().unwrap() as usize];
    let second = &cores[groups["groups"][1][0].as_u64().unwrap() as usize];
    assert_eq!(report.frozen_verified as usize, first.count() + first.or(second).unwrap().count());

    let table = String::from_utf8(job.bytes("run/report.md")).unwrap();
    assert!(table.starts_with("# 3 tasks by the method `cpift`\n\n| task | base |"), "{table}");
    assert!(TASKS.iter().all(|task| table.contains(&format!("| {task} | "))), "{table}");
    let losses = report.tasks.iter().map(|task| task.scores[3].unwrap().loss);
    let mean = losses.sum::<f64>() / 3.0;
    let row = table.lines().find(|line| line.starts_with("| mean | ")).unwrap();
    assert!(row.contains(&format!("| {mean:.4} / ")), "{row}");

    let metrics = String::from_utf8(job.bytes("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 18);
    for line in metrics.lines() {
        let step: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(step["loss"].as_f64().unwrap() > 0.0 && step["gradient_norm"].as_f64().unwrap() > 0.0);
    }
    assert!(!job.path("run/checkpoint").exists(), "nothing is left of the checkpoints, their folder neither");
}

/// Every evaluation between stages is planned, and no other.
#[test]
fn evaluations_between_stages_are_planned() {
    let job = SmallJob::new();
    for method in ["cpift", "staged", "joint"] {
        let recipe = job.recipe(&[("method", json!(method))]);
        let plan = job.plan(&recipe).unwrap();
        let planned: Vec<(String, u64, u64, u64)> = plan
            .stage_evaluations
            .iter()
            .map(|stage| (stage.column.to_string(), stage.tasks, stage.losses, stage.answers))
            .collect();
        let report = job.run(&recipe, method, false, &mut Silent).unwrap();
        let made = report.columns.iter().enumerate().map(|(index, column)| {
            let scores: Vec<_> = report.tasks.iter().filter_map(|task| task.scores[index]).collect();
            let rows = |answered: bool| {
                let counted = scores.iter().filter(|score| !answered || score.share().is_some());
                counted.map(|score| score.rows).sum::<u64>()
            };
            (column.to_string(), scores.len() as u64, rows(false), rows(true))
        });
        assert_eq!(planned, made.collect::<Vec<_>>(), "{method}");
        assert!(plan.stage_evaluations.iter().all(|stage| stage.flops > 0.0));
    }
}

/// What is planned is what is made, also where stage 4 has fewer steps than parts.
#[test]
fn stage_4_makes_no_more_steps_than_it_is_given() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("integrate.steps", json!(2))]);
    let planned = job.plan(&recipe).unwrap().steps();
    let mut watcher = Watcher::default();
    let report = job.run(&recipe, "run", false, &mut watcher).unwrap();
    assert_eq!((planned, report.steps), (3 * 4 + 2, 3 * 4 + 2));
    let parts: Vec<&String> =
        watcher.events.iter().filter(|event| event.starts_with("integrate part")).collect();
    assert!(parts.len() == 2 && parts[0].starts_with("integrate part 2/3"), "{parts:?}");
}

/// The core of the first group, frozen from the second part on, ends with the bits it had after the first part,
/// and everything else that has a gradient moved on.
#[test]
fn frozen_cores_keep_their_bits_and_the_rest_moves() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("integrate.frozen", json!("all"))]);
    job.run(&recipe, "run", false, &mut Silent).unwrap();
    let (before, after) = (job.weights("run/fused"), job.weights("run/final"));
    let cores = TASKS.iter().map(|task| job.core("run", task));
    let frozen = cores.reduce(|all, core| all.or(&core).unwrap()).unwrap();
    assert!(frozen.indices().all(|j| before[j].to_bits() == after[j].to_bits()));
    let layout = Checkpoint::open(&job.path("run/final")).unwrap().layout().clone();
    for segment in layout.segments().iter().filter(|segment| !segment.name.contains("embed")) {
        let still = segment.range().filter(|&j| !frozen.get(j) && before[j] == after[j]).count();
        assert_eq!(still, 0, "{still} free parameters of {} did not move", segment.name);
    }
}

/// A run stopped after any number of steps and continued ends with the same bits as one never stopped.
#[test]
fn a_stopped_run_continues_to_the_same_bits() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let expected = job.bytes(&format!("whole/final/{WEIGHTS}"));
    // Steps 1 to 12 are probes of 4, 13 to 18 the integration in parts of 2.
    for stops in [vec![1], vec![4], vec![5, 3], vec![13], vec![14, 1], vec![17], vec![2, 2, 2, 2, 2, 2, 2, 2]]
    {
        let out =
            format!("stopped-{}", stops.iter().map(|stop| stop.to_string()).collect::<Vec<_>>().join("-"));
        for (index, &stop) in stops.iter().enumerate() {
            let mut watcher = Watcher { stop_after: Some(stop), ..Watcher::default() };
            let error = job.run(&recipe, &out, index > 0, &mut watcher).unwrap_err();
            assert!(matches!(error, Error::Interrupted { .. }), "{error}");
            assert_eq!(watcher.steps, stop);
        }
        let report = job.run(&recipe, &out, true, &mut Silent).unwrap();
        assert_eq!(job.bytes(&format!("{out}/final/{WEIGHTS}")), expected, "{out}");
        assert_eq!(report.steps, 18, "{out}");
        let whole = String::from_utf8(job.bytes("whole/scores.json")).unwrap();
        assert_eq!(String::from_utf8(job.bytes(&format!("{out}/scores.json"))).unwrap(), whole, "{out}");
        assert_eq!(job.bytes(&format!("{out}/answers.json")), job.bytes("whole/answers.json"), "{out}");
    }
}

/// Gated DeltaNet: layers of two kinds, a weight of three dimensions, vectors, queries with their gates. All go through
/// every stage, stopped and continued, and into a folder that is read again.
#[test]
fn a_model_of_gated_delta_nets_runs_every_stage() {
    let job = SmallJob::new();
    let config = job.path("blank/config.json");
    let mut fields: Value = serde_json::from_slice(&job.bytes("blank/config.json")).unwrap();
    let family = json!({
        "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text",
        "layer_types": ["linear_attention", "full_attention"],
        "linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 4,
        "linear_value_head_dim": 6, "linear_conv_kernel_dim": 3,
    });
    fields.as_object_mut().unwrap().extend(family.as_object().unwrap().clone());
    fs::write(&config, fields.to_string()).unwrap();

    let recipe = job.recipe(&[]);
    let report = job.run(&recipe, "whole", false, &mut Silent).unwrap();
    assert!(report.tasks.iter().all(|task| task.scores.iter().all(Option::is_some)));
    let layout = Checkpoint::open(&job.path("whole/final")).unwrap().layout().clone();
    let (fused, last) = (job.weights("whole/fused"), job.weights("whole/final"));
    for part in ["conv1d.weight", "A_log", "dt_bias", "in_proj_qkv.weight", "linear_attn.norm.weight"] {
        let segment = layout.segments().iter().find(|segment| segment.name.ends_with(part)).unwrap();
        let range = segment.range();
        assert!(fused[range.clone()] != last[range], "{part} did not move");
    }

    let mut watcher = Watcher { stop_after: Some(14), ..Watcher::default() };
    job.run(&recipe, "stopped", false, &mut watcher).unwrap_err();
    job.run(&recipe, "stopped", true, &mut Silent).unwrap();
    let last = |run: &str| job.bytes(&format!("{run}/final/{WEIGHTS}"));
    assert_eq!(last("stopped"), last("whole"));
}

/// A run that lost its process without warning continues from the last checkpoint, passing over a damaged one.
#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("checkpoint.every", json!(1))]);
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    let mut watcher = Watcher { stop_after: Some(16), ..Watcher::default() };
    job.run(&recipe, "run", false, &mut watcher).unwrap_err();
    let state = job.path("run/checkpoint/integrate/step-00000004/state.safetensors");
    let mut bytes = fs::read(&state).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&state, bytes).unwrap();
    let mut watcher = Watcher::default();
    job.run(&recipe, "run", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 3, "{:?}", watcher.events);
    assert_eq!(job.bytes(&format!("run/final/{WEIGHTS}")), job.bytes(&format!("whole/final/{WEIGHTS}")));
}

#[test]
fn a_finished_run_resumed_says_the_same_again() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("model.dtype", json!("bf16"))]);
    let first = job.run(&recipe, "run", false, &mut Silent).unwrap();
    let mut watcher = Watcher::default();
    let again = job.run(&recipe, "run", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 0);
    assert_eq!((again.steps, &again.tasks), (first.steps, &first.tasks));
    // What was scored is what was written, rounded to bf16.
    fs::remove_file(job.path("run/scores.json")).unwrap();
    let rescored = job.run(&recipe, "run", true, &mut Silent).unwrap();
    assert_eq!(rescored.tasks, first.tasks);
}

#[test]
fn groups_that_are_not_all_tasks_once_are_refused() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run_until(&recipe, "run", false, Some(Stage::Group), &mut Silent).unwrap();
    let path = job.path("run/groups.json");
    let mut report: serde_json::Value = serde_json::from_slice(&job.bytes("run/groups.json")).unwrap();
    for groups in [json!([[0, 1], [7]]), json!([[0, 1]]), json!([[0, 1], [1, 2]]), json!([[0, 1, 2], []])] {
        report["groups"] = groups;
        fs::write(&path, report.to_string()).unwrap();
        let error = job.run(&recipe, "run", true, &mut Silent).unwrap_err();
        assert!(error.is_input() && error.to_string().contains("groups.json"), "{error}");
    }
}

#[test]
fn the_same_recipe_gives_the_same_bits_and_another_seed_others() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    job.run(&recipe, "one", false, &mut Silent).unwrap();
    job.run(&recipe, "two", false, &mut Silent).unwrap();
    job.run(&job.recipe(&[("seed", json!(18))]), "three", false, &mut Silent).unwrap();
    let bytes = |run: &str| job.bytes(&format!("{run}/final/{WEIGHTS}"));
    assert_eq!(bytes("one"), bytes("two"));
    assert_ne!(bytes("one"), bytes("three"));
}

#[test]
fn baselines_run_to_the_end() {
    let job = SmallJob::new();
    for (method, columns, steps) in [("joint", 2, 4), ("sequential", 2, 4), ("staged", 3, 16)] {
        let recipe = job.recipe(&[("method", json!(method))]);
        let report = job.run(&recipe, method, false, &mut Silent).unwrap();
        assert_eq!((report.columns.len(), report.steps), (columns, steps), "{method}");
        assert_ne!(job.weights(&format!("{method}/final")), Vec::<f32>::new());
    }
    assert_ne!(job.bytes("joint/final/model.safetensors"), job.bytes("sequential/final/model.safetensors"));
}

#[test]
fn every_fusion_choice_runs() {
    let job = SmallJob::new();
    for (key, values) in [
        ("fuse.backbone", vec!["mean", "base", "last", "staged"]),
        ("fuse.space", vec!["delta"]),
        ("fuse.conflict", vec!["last", "mean", "sign"]),
        ("integrate.data", vec!["group"]),
        ("integrate.frozen", vec!["others", "none"]),
        ("probe.importance", vec!["path", "fisher", "fisher-net", "random", "inverse"]),
    ] {
        for value in values {
            let recipe = job.recipe(&[(key, json!(value)), ("train.steps", json!(3))]);
            let out = format!("{key}-{value}");
            let report =
                job.run(&recipe, &out, false, &mut Silent).unwrap_or_else(|error| panic!("{out}: {error}"));
            assert!(report.model.is_some());
        }
    }
}

/// Tasks that bring the models that probes made give the same cores (importance is the difference) and fuse alike.
#[test]
fn existing_models_take_the_place_of_probes() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "probed", false, &mut Silent).unwrap();
    let mut recipe: Recipe = job.recipe(&[]);
    for task in &mut recipe.task {
        task.model = Some(job.path(&format!("probed/probe/{}", task.name)));
    }
    let report = job.run(&recipe, "given", false, &mut Silent).unwrap();
    assert_eq!(report.steps, 6);
    for task in TASKS {
        let overlap = job.core("probed", task).jaccard(&job.core("given", task)).unwrap();
        // The accumulated displacement and the difference of the ends differ by rounding.
        assert!(overlap > 0.98, "{task}: {overlap}");
    }
}

#[test]
fn a_damaged_model_of_a_task_is_found_before_the_first_step() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "probed", false, &mut Silent).unwrap();
    let path = job.path("probed/final/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    let mut recipe = job.recipe(&[]);
    recipe.task[2].model = Some(job.path("probed/final"));
    let mut watcher = Watcher::default();
    let error = job.run(&recipe, "run", false, &mut watcher).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("NaN"), "{error}");
    assert_eq!(watcher.steps, 0);
}

/// A run goes on with the files it was begun with, by their content, and with no others.
#[test]
fn files_that_changed_between_stop_and_resume_are_noticed() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "brought", false, &mut Silent).unwrap();
    let mut recipe = job.recipe(&[]);
    recipe.task[2].model = Some(job.path("brought/final"));
    let mut watcher = Watcher { stop_after: Some(5), ..Watcher::default() };
    job.run(&recipe, "run", false, &mut watcher).unwrap_err();

    let template = job.path("blank/chat_template.jinja");
    fs::write(&template, "{{ messages[0].content }}").unwrap();
    let mut watcher = Watcher::default();
    let error = job.run(&recipe, "run", true, &mut watcher).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("jinja: was not there"), "{error}");
    fs::remove_file(template).unwrap();

    for name in ["code.train.jsonl", "logic.eval.jsonl", "blank/generation_config.json"] {
        let before = job.bytes(name);
        let mut after = before.clone();
        after.push(b'\n');
        fs::write(job.path(name), after).unwrap();
        let error = job.run(&recipe, "run", true, &mut watcher).unwrap_err();
        let says = format!("{name}: has changed since the run was begun");
        assert!(error.is_input() && error.to_string().contains(&says), "{error}");
        assert!(!error.to_string().contains('\n'));
        // The same bytes again, written later.
        fs::write(job.path(name), before).unwrap();
    }
    let brought = format!("brought/final/{WEIGHTS}");
    let before = job.bytes(&brought);
    let mut after = before.clone();
    let last = after.len() - 1;
    after[last] ^= 1;
    fs::write(job.path(&brought), after).unwrap();
    let error = job.run(&recipe, "run", true, &mut watcher).unwrap_err();
    assert!(error.to_string().contains("safetensors: has changed"), "{error}");
    fs::write(job.path(&brought), before).unwrap();
    assert_eq!(watcher.steps, 0);

    job.run(&recipe, "run", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 2 * 4 + 6 - 5);
}

#[test]
fn until_ends_after_a_stage_and_resume_goes_on() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let mut resume = false;
    for (stage, made) in [
        (Stage::Probe, "probe/logic/model.safetensors"),
        (Stage::Core, "core/logic.mask.safetensors"),
        (Stage::Group, "groups.json"),
        (Stage::Fuse, "fused/model.safetensors"),
        (Stage::Integrate, "final/model.safetensors"),
    ] {
        assert!(!job.path(&format!("run/{made}")).exists(), "{made} is there too early");
        job.run_until(&recipe, "run", resume, Some(stage), &mut Silent).unwrap();
        assert!(job.path(&format!("run/{made}")).exists(), "{made} is missing");
        resume = true;
    }
    job.run(&recipe, "whole", false, &mut Silent).unwrap();
    assert_eq!(job.bytes(&format!("run/final/{WEIGHTS}")), job.bytes(&format!("whole/final/{WEIGHTS}")));
}

#[test]
fn a_loss_that_is_not_a_number_stops_with_step_and_rows() {
    let job = SmallJob::new();
    // Every step multiplies the weights by 1 − 90·100: they overflow after about ten.
    let recipe = job.recipe(&[
        ("probe.learning_rate", json!(90.0)),
        ("probe.weight_decay", json!(100.0)),
        ("probe.steps", json!(60)),
    ]);
    let error = job.run(&recipe, "run", false, &mut Silent).unwrap_err().to_string();
    assert!(error.contains("at step") && error.contains("train.jsonl:"), "{error}");
    assert!(!error.contains('\n'), "{error}");
    assert!(!job.path("run/probe/arithmetic").exists());
}

#[test]
fn what_cannot_work_is_refused_before_the_first_step() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "taken", false, &mut Silent).unwrap();
    let fails = |recipe: &Recipe, out: &str, resume: bool, expected: &str| {
        let mut watcher = Watcher::default();
        let error = job.run(recipe, out, resume, &mut watcher).unwrap_err();
        assert!(error.is_input(), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(watcher.steps, 0);
    };
    fails(&job.recipe(&[]), "taken", false, "--resume");
    fails(&job.recipe(&[("seed", json!(18))]), "taken", true, "seed");
    fails(&job.recipe(&[("model.max_length", json!(65))]), "new", false, "max_length");
    fails(&job.recipe(&[("model.max_length", json!(2))]), "new", false, "longer than");
    fails(&job.recipe(&[("model.config", json!("missing.json"))]), "new", false, "missing.json");
    fails(&job.recipe(&[("train.epochs", json!(1))]), "new", false, "train.epochs");
    fails(&job.recipe(&[("core.fraction", json!(1.5))]), "new", false, "core.fraction");

    let mut recipe = job.recipe(&[("probe.importance", json!("path"))]);
    recipe.task[0].model = Some(job.path("taken/final"));
    fails(&recipe, "new", false, "probe.importance");
    let mut recipe = job.recipe(&[]);
    recipe.task[0].model = Some(job.path("blank"));
    fails(&recipe, "new", false, "model.safetensors");
    assert!(!job.path("new").exists(), "the run folder was made for a recipe that cannot run");
}
