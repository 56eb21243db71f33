//! TensorBoard's event files: they say what metrics.jsonl says, also after a resume.

use std::fs;
use std::path::{Path, PathBuf};

use cpift_model::progress::{Silent, StepReport};
use cpift_tests::jobs::{SmallJob, Watcher};
use serde_json::json;

/// One event: its step and its scalars.
#[derive(Debug, Default)]
struct Event {
    step: u64,
    version: Option<String>,
    scalars: Vec<(String, f32)>,
}

/// The records of a file, checksums checked.
fn records(bytes: &[u8]) -> Vec<&[u8]> {
    let checked = |content: &[u8], crc: &[u8]| {
        let expected = crc32c::crc32c(content).rotate_right(15).wrapping_add(0xa282_ead8);
        assert_eq!(crc, expected.to_le_bytes());
    };
    let mut found = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
        checked(&rest[..8], &rest[8..12]);
        checked(&rest[12..12 + length], &rest[12 + length..16 + length]);
        found.push(&rest[12..12 + length]);
        rest = &rest[16 + length..];
    }
    found
}

/// The fields of a message: number, and the value's bytes (of a varint: its value, little-endian).
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
        }
        unreachable!()
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => varint(&mut bytes) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, bytes[..length].to_vec()));
        bytes = &bytes[length..];
    }
    found
}

fn event(record: &[u8]) -> Event {
    let mut event = Event::default();
    for (field, value) in fields(record) {
        match field {
            1 => assert!(f64::from_le_bytes(value.try_into().unwrap()) > 1e9, "a time of this century"),
            2 => event.step = u64::from_le_bytes(value.try_into().unwrap()),
            3 => event.version = Some(String::from_utf8(value).unwrap()),
            5 => {
                for (field, value) in fields(&value) {
                    assert_eq!(field, 1);
                    let parts = fields(&value);
                    let scalar = f32::from_le_bytes(parts[1].1.clone().try_into().unwrap());
                    event.scalars.push((String::from_utf8(parts[0].1.clone()).unwrap(), scalar));
                }
            }
            other => panic!("field {other}"),
        }
    }
    event
}

/// The one event file of a training.
fn event_file(folder: &Path) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 1, "{files:?}");
    files.remove(0)
}

fn assert_same_as_metrics(job: &SmallJob, run: &str) {
    let metrics = String::from_utf8(job.bytes(&format!("{run}/metrics.jsonl"))).unwrap();
    let steps: Vec<StepReport> = metrics.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for training in ["probe-arithmetic", "probe-code", "probe-logic", "integrate"] {
        let bytes = fs::read(event_file(&job.path(&format!("{run}/tensorboard/{training}")))).unwrap();
        let events: Vec<Event> = records(&bytes).into_iter().map(event).collect();
        assert_eq!(events[0].version.as_deref(), Some("brain.Event:2"));
        let (stage, part) = training.split_once('-').unwrap_or((training, ""));
        let expected: Vec<&StepReport> =
            steps.iter().filter(|step| step.stage.name() == stage && step.part == part).collect();
        assert_eq!(events.len() - 1, expected.len(), "{training}");
        for (event, step) in events[1..].iter().zip(expected) {
            assert_eq!(event.step, step.number);
            let scalar = |tag: &str| event.scalars.iter().find(|(name, _)| name == tag).unwrap().1;
            assert_eq!(scalar("loss"), step.loss as f32);
            assert_eq!(scalar("gradient_norm"), step.gradient_norm as f32);
            assert_eq!(scalar("learning_rate"), step.learning_rate as f32);
            for (task, loss) in &step.task_losses {
                assert_eq!(scalar(&format!("task_loss/{task}")), *loss as f32);
            }
        }
    }
}

#[test]
fn events_are_the_metrics() {
    let job = SmallJob::new();
    job.run(&job.recipe(&[("metrics", json!({ "tensorboard": true }))]), "run", false, &mut Silent).unwrap();
    assert_same_as_metrics(&job, "run");
    job.run(&job.recipe(&[]), "without", false, &mut Silent).unwrap();
    assert!(!job.path("without/tensorboard").exists());
}

/// Steps that are made again because their checkpoint is lost, and a record that was cut short.
#[test]
fn a_resume_leaves_every_step_once() {
    let job = SmallJob::new();
    let recipe = job.recipe(&[("metrics", json!({ "tensorboard": true }))]);
    let mut watcher = Watcher { stop_after: Some(15), ..Watcher::default() };
    job.run(&recipe, "run", false, &mut watcher).unwrap_err();
    fs::remove_dir_all(job.path("run/checkpoint/integrate")).unwrap();
    let file = event_file(&job.path("run/tensorboard/integrate"));
    let mut bytes = fs::read(&file).unwrap();
    bytes.extend([9, 0, 0]);
    fs::write(&file, bytes).unwrap();
    let mut watcher = Watcher::default();
    job.run(&recipe, "run", true, &mut watcher).unwrap();
    assert_eq!(watcher.steps, 6, "all of the integration was made again");
    assert_same_as_metrics(&job, "run");
}
