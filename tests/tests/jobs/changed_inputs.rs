//! Inputs, base models and stages that change while a run goes on, or between its parts.

use std::fs;

use cpift_model::job::{Job, JobOptions};
use cpift_model::progress::Silent;
use cpift_model::recipe::Stage;
use cpift_tests::jobs::{Meddler, SmallJob};

const WEIGHTS: &str = "final/model.safetensors";

/// The base is read again for every probe, a task's model for its core, other files for every model written.
#[test]
fn files_that_change_while_a_run_goes_on_are_noticed() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[]), "brought", false, &mut Silent).unwrap();
    let mut recipe = job.recipe(&[]);
    recipe.model.config = None;
    recipe.model.base = Some(job.path("brought/final"));
    recipe.task[2].model = Some(job.path("brought/probe/logic"));
    for (name, offset) in [
        ("brought/final/model.safetensors", 1),
        ("brought/probe/logic/model.safetensors", 1),
        ("brought/final/tokenizer_config.json", 1),
    ] {
        let path = job.path(name);
        let before = fs::read(&path).unwrap();
        let mut after = before.clone();
        let at = after.len() - offset;
        after[at] ^= 1;
        let target = path.clone();
        let mut meddler = Meddler::new(2, move || fs::write(&target, &after).unwrap());
        let out = format!("changed-{}", name.replace('/', "-"));
        let error = job.run(&recipe, &out, false, &mut meddler).unwrap_err();
        let message = error.to_string();
        assert!(error.is_input() && message.contains(name) && message.contains("has changed"), "{message}");
        fs::write(&path, before).unwrap();
        job.run(&recipe, &out, true, &mut Silent).unwrap();
    }
    // Touched, or written again with the same content, is not changed.
    let path = job.path("brought/final/model.safetensors");
    let content = fs::read(&path).unwrap();
    let mut meddler = Meddler::new(2, move || fs::write(&path, &content).unwrap());
    job.run(&recipe, "rewritten", false, &mut meddler).unwrap();
    assert_eq!(
        job.bytes(&format!("rewritten/{WEIGHTS}")),
        job.bytes(&format!("changed-brought-final-model.safetensors/{WEIGHTS}"))
    );
}

/// Every file that is copied into models is among those a run is bound to.
#[test]
fn a_copied_file_that_came_or_changed_is_noticed() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    fs::write(job.path("blank/vocab.json"), "{\"a\": 1}").unwrap();
    job.run_until(&recipe, "run", false, Some(Stage::Fuse), &mut Silent).unwrap();
    fs::write(job.path("blank/vocab.json"), "{\"a\": 2}").unwrap();
    let message = job.run(&recipe, "run", true, &mut Silent).unwrap_err().to_string();
    assert!(message.contains("vocab.json: has changed since the run was begun"), "{message}");
    assert!(message.contains("the run's inputs.json says what it was"), "{message}");
    fs::write(job.path("blank/vocab.json"), "{\"a\": 1}").unwrap();
    let added = job.path("blank/merges.txt");
    let mut meddler = Meddler::new(1, move || fs::write(&added, "a b").unwrap());
    let message = job.run(&recipe, "run", true, &mut meddler).unwrap_err().to_string();
    assert!(message.contains("merges.txt: was not there when the run was begun"), "{message}");
    fs::remove_file(job.path("blank/merges.txt")).unwrap();
    job.run(&recipe, "run", true, &mut Silent).unwrap();
}

/// Between being read and being hashed, and while nothing of the run is there yet.
#[test]
fn a_file_edited_after_it_was_read_is_noticed() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let device = cpift_engine::Device::cpu(std::num::NonZeroUsize::new(1)).unwrap();
    for name in ["code.train.jsonl", "blank/tokenizer.json", "blank/config.json"] {
        let out = job.path("run");
        let options = JobOptions {
            recipe: &recipe,
            out: &out,
            resume: false,
            until: None,
            probe: None,
            probes: None,
            study: None,
            preparation: cpift_model::data::Preparation::default(),
            ranks: None,
        };
        let prepared = Job::prepare(&device, &options).unwrap();
        let before = job.bytes(name);
        fs::write(job.path(name), [before.as_slice(), b"\n"].concat()).unwrap();
        let error = prepared.run(&mut Silent).unwrap_err();
        let message = error.to_string();
        assert!(
            error.is_input() && message.contains(&format!("{name}: changed while it was read")),
            "{message}"
        );
        assert!(!out.exists());
        fs::write(job.path(name), before).unwrap();
    }
}

#[test]
fn a_probe_that_changes_while_its_run_goes_on_is_made_again() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[]);
    let path = job.path("run/probe/arithmetic/model.safetensors");
    let target = path.clone();
    let mut meddler = Meddler::new(6, move || {
        let mut bytes = fs::read(&target).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&target, bytes).unwrap();
    });
    let message = job.run(&recipe, "run", false, &mut meddler).unwrap_err().to_string();
    let folder = job.path("run/probe/arithmetic");
    let remedy = format!("remove {} and continue with --resume", folder.display());
    assert!(message.contains("model.safetensors: has changed") && message.contains(&remedy), "{message}");
    fs::remove_dir_all(folder).unwrap();
    job.run(&recipe, "run", true, &mut Silent).unwrap();
}
