//! Merges that are stopped, and what is left of them.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::Device;
use cpift_model::merge::{Merge, MergeRequest, Method};
use cpift_model::{Error, Result};
use cpift_tests::model_folders::{Stored, read, write};
use tempfile::TempDir;

use super::{merge_into, request};

/// Two models of eight tensors, to be merged into four files.
fn models() -> (TempDir, MergeRequest) {
    let folder = TempDir::new().unwrap();
    for (value, name) in [(1.0, "a"), (2.0, "b")] {
        let tensor =
            |number: usize| Stored::floats(&format!("t{number}"), &[100], &[value * number as f32; 100]);
        write(&folder.path().join(name), "any", &(0..8).map(tensor).collect::<Vec<_>>());
    }
    let mut request = request(folder.path(), Method::Average, None, &[("a", 1.0), ("b", 1.0)]);
    request.shard_bytes = 800;
    (folder, request)
}

/// Stops once so many bytes are made.
pub(super) fn run(request: &MergeRequest, out: &Path, resume: bool, stop_at: u64) -> Result<u64> {
    let stop = AtomicBool::new(false);
    let mut made = 0;
    let device = Device::cpu(None).unwrap();
    Merge::new(request)?.run(&device, out, resume, &stop, &mut |progress| {
        made = progress.done;
        stop.store(progress.done >= stop_at, Ordering::Relaxed);
    })?;
    Ok(made)
}

#[test]
fn a_stopped_merge_goes_on_behind_its_last_whole_file() {
    let (folder, request) = models();
    let out = folder.path().join("out");
    let error = run(&request, &out, false, 2000).unwrap_err();
    assert!(
        matches!(&error, Error::Interrupted { position } if position == "with 2 of 4 files whole"),
        "{error}"
    );
    assert!(!out.exists());
    // What is whole is not read again.
    for name in ["model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors"] {
        assert!(folder.path().join(".out.unfinished").join(name).is_file());
    }
    assert_eq!(run(&request, &out, true, u64::MAX).unwrap(), 1600);
    assert!(!folder.path().join(".out.unfinished").exists());
    let whole = folder.path().join("whole");
    merge_into(&request, &whole, 2).unwrap();
    for entry in fs::read_dir(&whole).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(fs::read(out.join(&name)).unwrap(), fs::read(whole.join(&name)).unwrap(), "{name:?}");
    }
    assert_eq!(read(&out).len(), 8);
}

/// As many files of another size hold other tensors: what is whole of the one cannot be gone on from with the other.
#[test]
fn files_of_another_size_are_not_mixed() {
    let (folder, mut request) = models();
    let out = folder.path().join("out");
    request.shard_bytes = 1600;
    run(&request, &out, false, 1600).unwrap_err();
    request.shard_bytes = 2000;
    let error = run(&request, &out, true, u64::MAX).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("other inputs or settings"), "{error}");
    request.shard_bytes = 1600;
    run(&request, &out, true, u64::MAX).unwrap();
    assert_eq!(read(&out).len(), 8);
}

/// What ties are left for a tensor follows from those before, also where these are not made again.
#[test]
fn cores_are_the_same_when_a_merge_goes_on() {
    let (folder, _) = models();
    let mut request = request(folder.path(), Method::Cpift, Some("a"), &[("b", 1.0)]);
    request.shard_bytes = 800;
    // Of a bit more than the tensor whose updates are largest: the others' largest are all equal.
    request.parameters.fraction = Some(0.3.into());
    let out = folder.path().join("out");
    let whole = folder.path().join("whole");
    merge_into(&request, &whole, 2).unwrap();
    run(&request, &out, false, 1300).unwrap_err();
    run(&request, &out, true, u64::MAX).unwrap();
    for (name, tensor) in read(&whole) {
        assert_eq!(read(&out)[&name].bytes, tensor.bytes, "{name}");
    }
}

/// A file that is not as long as it was written is made again, and so are those behind it.
#[test]
fn damaged_files_are_made_again() {
    let (folder, request) = models();
    let out = folder.path().join("out");
    run(&request, &out, false, 2400).unwrap_err();
    let second = folder.path().join(".out.unfinished/model-00002-of-00004.safetensors");
    fs::write(second, "short").unwrap();
    assert_eq!(run(&request, &out, true, u64::MAX).unwrap(), 2400);
    assert_eq!(read(&out).len(), 8);
}

#[test]
fn without_resume_it_begins_anew_and_with_it_only_the_same_goes_on() {
    let (folder, mut request) = models();
    let out = folder.path().join("out");
    run(&request, &out, false, 2000).unwrap_err();
    request.slices[0].sources[1].parameters.weight = Some(3.0.into());
    let error = run(&request, &out, true, u64::MAX).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("other inputs or settings"), "{error}");
    assert_eq!(run(&request, &out, false, u64::MAX).unwrap(), 3200);
    // Nothing is written into a folder that has something in it.
    let error = run(&request, &out, true, u64::MAX).unwrap_err();
    assert!(error.is_input() && error.to_string().contains("not empty"), "{error}");
}
