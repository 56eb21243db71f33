//! `compare`: a whole comparison of small jobs, stopped and continued, spread over processes, and refused.

use std::fs;

use cpift_model::compare::results::{Budget, Comparison, Interval, MethodResult, SaliencyAtLength, SeedRun};
use cpift_model::stages::saliency::Saliency;
use serde_json::json;

use crate::support::{JobFiles, engine, refused, run, stderr, stdout};

/// Arguments that compare a small recipe.
fn compare(files: &JobFiles, out: &str, more: &[&str]) -> Vec<String> {
    let start = ["compare".to_owned(), files.path("recipe.toml"), "--out".to_owned(), files.path(out)];
    let device = ["--device", "cpu"].map(str::to_owned);
    start.into_iter().chain(device).chain(more.iter().map(|&argument| argument.to_owned())).collect()
}

fn compared(files: &JobFiles, out: &str, more: &[&str]) -> Comparison {
    let arguments = compare(files, out, more);
    let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("Equal steps in all"), "{}", stdout(&output));
    let text = fs::read_to_string(format!("{}/results.json", files.path(out))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What does not depend on time, memory and how many ran side by side.
fn scores(comparison: &Comparison) -> String {
    let mut comparison = comparison.clone();
    comparison.origin = cpift_model::compare::results::Origin::default();
    comparison.references.iter_mut().for_each(|reference| {
        (reference.seconds, reference.peak_memory_bytes) = (0.0, None);
    });
    for method in &mut comparison.methods {
        method.summary.peak_memory_bytes = None;
        method.summary.seconds.mean = 0.0;
        method.summary.seconds.half_width = None;
        method.runs.iter_mut().for_each(|run| (run.seconds, run.peak_memory_bytes) = (0.0, None));
    }
    serde_json::to_string_pretty(&comparison).unwrap()
}

/// Loss of a run, mean over the tasks.
fn mean_loss(run: &SeedRun) -> f64 {
    run.scores.iter().map(|score| score.loss).sum::<f64>() / run.scores.len() as f64
}

const FEW: [&str; 6] = ["--methods", "cpift,joint,ties,ties+tune", "--seeds", "2", "--ablations", "freezing"];

#[test]
fn a_comparison_has_every_cell_and_shares_what_is_the_same() {
    let files = JobFiles::new(&[]);
    let more = [&FEW[..], &["--forgetting", "--jobs", "2"]].concat();
    let found = compared(&files, "out", &more);
    assert_eq!((found.seeds.len(), found.tasks.len(), found.references.len()), (2, 3, 2));
    // Nothing is measured only: what versions before that read is what is written.
    assert_eq!(found.version, 1);
    assert_eq!((found.steps.specialist, found.steps.total, found.steps.given), (4, 18, 6));
    let plan = run(&["plan", &files.path("recipe.toml"), "--json", "--device", "cpu"]);
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let planned = plan["memory_bytes"].as_u64().unwrap();
    for method in &found.methods {
        assert_eq!(method.runs.len(), 2, "{}", method.name);
        assert!(method.runs.iter().all(|run| run.scores.len() == 3), "{}", method.name);
        assert!(method.summary.tasks.iter().all(|task| task.loss.half_width.is_some()), "{}", method.name);
        // More than nothing, and the program included no more than is planned for the recipe.
        let mut peaks = method.runs.iter().filter_map(|run| run.peak_memory_bytes);
        assert!(peaks.all(|bytes| bytes > 1 << 20 && bytes <= planned), "{}: {:?}", method.name, method.runs);
    }
    let find = |name: &str, budget: Budget| {
        let is_it = |method: &&MethodResult| method.name == name && method.budgets.contains(&budget);
        found.methods.iter().find(is_it).unwrap_or_else(|| panic!("{name}"))
    };
    assert_eq!((find("joint", Budget::Total).steps, find("joint", Budget::Given).steps), (18, 6));
    let cpift = find("cpift", Budget::Given);
    assert_eq!((cpift.specialist_steps, cpift.steps), (12, 6));
    // The recipe freezes the cores of earlier groups: the ablation that says so is the same run.
    let folder = |name: &str| find(name, Budget::Given).runs[0].folder.clone();
    assert_eq!(folder("frozen=prior"), folder("cpift"));
    assert_ne!(folder("frozen=none"), folder("cpift"));
    assert!(!fs::exists(format!("{}/{}/final", files.path("out"), folder("cpift"))).unwrap());
    // Differences are taken seed by seed.
    let normalised =
        |method: &MethodResult| method.runs.iter().map(|run| run.mean_normalised).collect::<Vec<_>>();
    let joint = find("joint", Budget::Given);
    let pairs = normalised(joint).into_iter().zip(normalised(cpift));
    let by_hand = Interval::of_all(pairs.map(|(joint, cpift)| Some(joint? - cpift?)));
    assert_eq!(found.difference(joint, Budget::Given), by_hand);
    assert!(found.difference(cpift, Budget::Given).is_none());
    let pairs = joint.runs.iter().zip(&cpift.runs);
    let by_hand = Interval::of_all(pairs.map(|(joint, cpift)| Some(mean_loss(joint) - mean_loss(cpift))));
    assert_eq!(found.loss_difference(joint, Budget::Given), by_hand);
    let base = |index: usize, task: usize| found.references[index].base[task].loss;
    for row in [joint, cpift] {
        let changes = row.runs.iter().enumerate().map(|(index, run)| {
            let changes = run.scores.iter().enumerate().map(|(task, score)| score.loss - base(index, task));
            changes.max_by(f64::total_cmp)
        });
        assert_eq!(found.worst_loss_change(row).map(|worst| worst.change), Interval::of_all(changes));
    }

    let forgetting = found.forgetting.unwrap();
    assert_eq!(forgetting.methods.len(), 5);
    assert!(forgetting.methods.iter().all(|method| method.pairs.len() == 12));
    assert_eq!(found.cores.len(), 2);
    assert_eq!(found.overlaps.unwrap().seeds.len(), 3);
    let table = fs::read_to_string(files.path("out/table.md")).unwrap();
    assert!(table.contains("| ties+tune |") && !table.contains("NaN"), "{table}");
}

#[test]
fn jobs_and_interruptions_do_not_change_the_results() {
    let files = JobFiles::new(&[]);
    let whole = compared(&files, "whole", &[&FEW[..], &["--jobs", "3"]].concat());

    // One that is killed while it works, then two that share the rest.
    let arguments = compare(&files, "shared", &[&FEW[..], &["--jobs", "1"]].concat());
    let mut first = engine(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let outcomes = files.path("shared/outcomes");
    let count = || fs::read_dir(&outcomes).map_or(0, Iterator::count);
    while count() < 2 && first.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!fs::exists(files.path("shared/results.json")).unwrap());
    let resume = [&FEW[..], &["--jobs", "1", "--resume"]].concat();
    let arguments = compare(&files, "shared", &resume);
    let mut second = engine(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let third = compared(&files, "shared", &resume);
    assert!(second.wait().unwrap().success());
    assert_eq!(scores(&third), scores(&whole));

    // A run that has lost its outcome and specialists that have lost a model are made again.
    let removed = fs::read_dir(&outcomes).unwrap().next().unwrap().unwrap().path();
    fs::remove_file(removed).unwrap();
    let specialists = fs::read_dir(files.path("shared/runs")).unwrap().flatten();
    let specialists = specialists.map(|entry| entry.path()).find(|path| path.join("probe").exists()).unwrap();
    fs::remove_dir_all(specialists.join("probe/code")).unwrap();
    assert_eq!(scores(&compared(&files, "shared", &resume)), scores(&whole));
}

#[test]
fn a_relative_folder_and_shorter_probes() {
    let files = JobFiles::new(&[]);
    let arguments = ["compare", "recipe.toml", "--out", "here/out", "--device", "cpu"];
    let more = ["--methods", "cpift", "--ablations", "split", "--seeds", "1"];
    let output = engine(&arguments).args(more).current_dir(files.path("")).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let text = fs::read_to_string(files.path("here/out/results.json")).unwrap();
    let found: Comparison = serde_json::from_str(&text).unwrap();
    // Probes of 4 steps for 3 tasks, and 6 steps after them: the same total, whoever gets it.
    let split: Vec<_> = found.methods.iter().filter(|method| method.family == "split").collect();
    let steps = split.iter().map(|method| (method.specialist_steps, method.steps)).collect::<Vec<_>>();
    assert_eq!(steps, [[(6, 12); 3], [(3, 15); 3]].concat());
    assert!(split.iter().all(|method| method.budgets == [Budget::Total]));
}

#[test]
fn probes_of_several_lengths_are_compared() {
    let files = JobFiles::new(&[]);
    let lengths = ["--methods", "none", "--probe-lengths", "1,3", "--transplants", "0.1,1"];
    let more = [&lengths[..], &["--seeds", "2"]].concat();
    let arguments = compare(&files, "out", &more);
    let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", stderr(&output));
    let found = Comparison::read(files.path("out").as_ref()).unwrap();
    assert!(found.methods.is_empty());
    let lengths = found.probe_lengths.unwrap();
    assert_eq!((lengths.losses.len(), lengths.saliencies.len()), (2, 14));
    assert!(lengths.losses[1] < lengths.base_loss, "{lengths:?}");
    let net = |steps: u64| {
        let is_it = |found: &&SaliencyAtLength| found.saliency == Saliency::Net && found.steps == steps;
        lengths.saliencies.iter().find(is_it).unwrap()
    };
    let overlap = net(3).overlaps[1];
    assert!(overlap.seeds.unwrap().mean > overlap.tasks.unwrap().mean, "{overlap:?}");
    assert_eq!(overlap.longest.unwrap().mean, 1.0);
    // All of a probe brings all that it gains.
    assert!((net(1).gains[1].unwrap().mean - 1.0).abs() < 1e-9 && net(1).gains[0].is_some());
    let report = run(&["report", &files.path("out")]);
    assert!(report.status.success(), "{}", stderr(&report));
    let page = fs::read_to_string(files.path("out/report.html")).unwrap();
    assert!(page.contains("Length of probes") && !page.contains("NaN"));
    let rows = fs::read_to_string(files.path("out/report/probe-lengths.csv")).unwrap();
    // A list that lacks a number is refused, and a length that is gone is made again.
    let results = files.path("out/results.json");
    let whole = fs::read_to_string(&results).unwrap();
    let mut broken: serde_json::Value = serde_json::from_str(&whole).unwrap();
    broken["probe_lengths"]["chance"].as_array_mut().unwrap().pop();
    fs::write(&results, broken.to_string()).unwrap();
    let message = refused(&["report", &files.path("out")]);
    assert!(message.contains("probe_lengths"), "{message}");
    let runs = fs::read_dir(files.path("out/runs")).unwrap().flatten().map(|entry| entry.path());
    let studied = runs.map(|run| run.join("probe-lengths")).find(|folder| folder.exists()).unwrap();
    fs::remove_dir_all(studied.join("code/1")).unwrap();
    let arguments = compare(&files, "out", &[&more[..], &["--resume"]].concat());
    let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", stderr(&output));
    let again = Comparison::read(files.path("out").as_ref()).unwrap();
    assert_eq!(again.probe_lengths, Some(lengths));
    // Seven measures at two lengths: three correlations, fifteen overlaps, two gains; and two gains of random parameters.
    assert_eq!(rows.lines().count(), 1 + 2 * (7 * 20 + 2));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let refuse = |files: &JobFiles, more: &[&str]| {
        let arguments = compare(files, "refused", more);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let files = JobFiles::new(&[]);
    let message = refuse(&files, &["--methods", "joint,magic"]);
    assert!(message.contains("no `magic`") && message.contains("dare-ties"), "{message}");
    let message = refuse(&files, &["--methods", "none,joint"]);
    assert!(message.contains("`none` stands alone"), "{message}");
    let message = refuse(&files, &["--probe-lengths", "8,2"]);
    assert!(message.contains("--probe-lengths") && message.contains("ascend"), "{message}");
    let message = refuse(&files, &["--ablations", "phases"]);
    assert!(message.contains("no `phases`") && message.contains("freezing"), "{message}");
    let message = refuse(&files, &["--rows", "joint,split 99"]);
    assert!(message.contains("no row `split 99`") && message.contains("joint, sequential"), "{message}");
    let message = refuse(&files, &["--methods", "joint,ties", "--against", "half"]);
    assert!(message.contains("--against") && message.contains("no row `half`"), "{message}");
    let message = refuse(&files, &["--rows", "joint", "--against", "cpift"]);
    assert!(message.contains("no row `cpift`"), "{message}");
    fs::create_dir(files.path("refused")).unwrap();
    fs::write(files.path("refused/notes.txt"), "mine").unwrap();
    let message = refuse(&files, &[]);
    assert!(message.contains("not empty"), "{message}");

    let task = |eval: bool| {
        let mut task = json!({"name": "code", "train": files.path("code.train.jsonl")});
        if eval {
            task["eval"] = json!(files.path("code.eval.jsonl"));
        }
        task
    };
    let message = refuse(&JobFiles::new(&[("task", json!([task(true)]))]), &[]);
    assert!(message.contains("at least two tasks"), "{message}");
    let mut other = task(true);
    other["name"] = json!("logic");
    let message = refuse(&JobFiles::new(&[("task", json!([task(false), other]))]), &[]);
    assert!(message.contains("task.code.eval"), "{message}");
}

#[test]
fn a_folder_is_continued_with_the_same_recipe_only() {
    let files = JobFiles::new(&[]);
    compared(&files, "out", &["--methods", "joint", "--seeds", "1"]);
    let again = |more: &[&str]| {
        let arguments = compare(&files, "out", more);
        refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert!(again(&["--methods", "joint", "--seeds", "1"]).contains("--resume"));
    let message = again(&["--methods", "joint", "--seeds", "1", "--resume", "--set", "train.batch_size=2"]);
    assert!(message.contains("batch_size = 4") && message.contains("batch_size = 2"), "{message}");
    // More rows and seeds are no other comparison.
    let found = compared(&files, "out", &["--methods", "joint,half", "--seeds", "2", "--resume"]);
    assert_eq!(found.methods.len(), 4);
    // Single rows, methods and ablations alike, and another that all are compared with.
    let rows = ["--rows", "joint,no stage 4", "--against", "joint", "--seeds", "2", "--resume"];
    let found = compared(&files, "out", &rows);
    let names: Vec<&str> = found.methods.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names, ["joint", "joint", "no stage 4"]);
    let fused = &found.methods[2];
    // It counts under both budgets, and each has a joint training of its own.
    for (budget, joint) in [Budget::Total, Budget::Given].into_iter().zip(&found.methods) {
        let pairs = fused.runs.iter().zip(&joint.runs);
        let by_hand = Interval::of_all(pairs.map(|(a, b)| Some(mean_loss(a) - mean_loss(b))));
        assert!(by_hand.is_some());
        assert_eq!(found.loss_difference(fused, budget), by_hand);
    }
    assert!(found.rows_under(Budget::Total).contains(&fused));
    assert_eq!(found.main_budget(fused), Budget::Given);
    assert_eq!(Comparison::read(files.path("out").as_ref()).unwrap(), found);
    let table = fs::read_to_string(files.path("out/table.md")).unwrap();
    assert!(table.contains("| to joint |") && !table.contains("to cpift"), "{table}");
}

/// What runs measure while they train is kept where it decides something, and changes nothing elsewhere.
#[test]
fn evaluation_while_training_is_part_of_the_runs_where_it_decides() {
    let few = ["--methods", "cpift,joint", "--seeds", "1", "--jobs", "2"];
    let compared_with = |out: &str, evaluate: serde_json::Value| {
        let files = JobFiles::new(&[("evaluate", evaluate)]);
        let arguments = compare(&files, out, &few);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(output.status.success(), "{}", stderr(&output));
        let text = fs::read_to_string(format!("{}/results.json", files.path(out))).unwrap();
        let found: Comparison = serde_json::from_str(&text).unwrap();
        (files, found, stderr(&output).to_owned())
    };
    let (_files, plain, said) = compared_with("plain", json!({}));
    assert!(!said.contains("[evaluate]"), "{said}");
    let (_files, watched, said) = compared_with("watched", json!({"every": 1, "rows": 5}));
    assert!(said.contains("[evaluate] is left out"), "{said}");
    assert_eq!(scores(&watched), scores(&plain));

    let (files, chosen, said) = compared_with("chosen", json!({"every": 1, "rows": 5, "keep": "best"}));
    // Six steps of cpift and joint under both budgets, 18 of joint, and one evaluation of the specialists.
    assert!(
        said.contains("[evaluate] decides which weights are kept, in all runs: 31 evaluations"),
        "{said}"
    );
    let steps = |run: &str| -> Vec<cpift_model::progress::StepReport> {
        let text = fs::read_to_string(format!("{}/{run}/metrics.jsonl", files.path("chosen"))).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for method in &chosen.methods {
        let run = &method.runs[0].folder;
        let own = steps(run).into_iter().filter(|step| step.stage.name() != "probe").collect::<Vec<_>>();
        assert!(own.iter().all(|step| step.evaluation.len() == 3), "{}", method.name);
        // All methods know the specialists' scores on the rows that choose.
        let measured = fs::read_to_string(format!("{}/{run}/scores.json", files.path("chosen"))).unwrap();
        assert!(measured.contains("probe on 5 rows with answers"), "{measured}");
    }
}
