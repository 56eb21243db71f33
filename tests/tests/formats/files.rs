//! Files and folders that appear whole or not at all, and the checks before work starts.

use std::fs;
use std::path::Path;

use cpift_model::Error;
use cpift_model::files::{
    AtomicFolder, FolderLock, MANIFEST, Manifest, Verify, create_atomically, move_folder, remove_partial,
    require_empty, require_free_space, require_writable, write_atomically, write_bytes_atomically,
};
use tempfile::tempdir;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_is_replaced_whole_or_not_at_all() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("deep/er/state");
    write_bytes_atomically(&path, b"first").unwrap();
    write_atomically(&path, |file| {
        file.put(b"sec")?;
        assert_eq!(fs::read(&path).unwrap(), b"first", "the old content stays until the new is complete");
        file.put(b"ond")
    })
    .unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"second");
    let failed = write_atomically(&path, |file| {
        file.put(b"third")?;
        Err(Error::Job("stopped half-way".to_owned()))
    });
    assert_eq!(failed.unwrap_err().to_string(), "stopped half-way");
    assert_eq!(fs::read(&path).unwrap(), b"second");
    assert_eq!(names(path.parent().unwrap()), ["state"]);
}

#[test]
fn a_folder_appears_when_it_is_complete() {
    let parent = tempdir().unwrap();
    let target = parent.path().join("stage");
    fs::create_dir(&target).unwrap();
    let mut folder = AtomicFolder::create(&target).unwrap();
    folder.write_bytes("a", b"one").unwrap();
    folder.copy(&parent.path().join("absent"), "c").unwrap_err();
    folder.write("b", |file| file.put(b"two")).unwrap();
    assert!(folder.contains("a") && !folder.contains("c"));
    assert!(folder.write_bytes("a", b"again").unwrap_err().to_string().contains("written twice"));
    for name in ["", ".", "..", "x/", "x/..", "../x", "x/y/z", "/x"] {
        assert!(folder.write_bytes(name, b"").unwrap_err().to_string().contains("not the name of a file"));
    }
    assert!(names(&target).is_empty());
    folder.commit().unwrap();
    assert_eq!(names(&target), ["a", "b", MANIFEST]);
    assert_eq!(names(parent.path()), ["stage"]);
    let manifest = Manifest::verify(&target, Verify::Contents).unwrap();
    let listed: Vec<_> = manifest.files.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
    assert_eq!(listed, [("a", 3), ("b", 3)]);
    assert!(AtomicFolder::create(&target).unwrap_err().to_string().contains("not empty"));
}

#[test]
fn a_folder_given_up_leaves_nothing() {
    let parent = tempdir().unwrap();
    let mut folder = AtomicFolder::create(&parent.path().join("stage")).unwrap();
    folder.write_bytes("a", b"one").unwrap();
    drop(folder);
    assert!(names(parent.path()).is_empty());
}

#[test]
fn damage_is_found() {
    let parent = tempdir().unwrap();
    let target = parent.path().join("stage");
    let mut folder = AtomicFolder::create(&target).unwrap();
    folder.write_bytes("a", b"one").unwrap();
    folder.commit().unwrap();

    fs::write(target.join("a"), b"One").unwrap();
    Manifest::verify(&target, Verify::Lengths).unwrap();
    let message = Manifest::verify(&target, Verify::Contents).unwrap_err().to_string();
    assert!(message.contains("stage/a: the content is not"), "{message}");
    fs::write(target.join("a"), b"ones").unwrap();
    let message = Manifest::verify(&target, Verify::Lengths).unwrap_err().to_string();
    assert!(message.contains("4 bytes long, the manifest says 3"), "{message}");
    fs::remove_file(target.join("a")).unwrap();
    assert!(Manifest::verify(&target, Verify::Lengths).is_err());
    for (text, says) in [
        ("", "not a manifest"),
        ("{\"version\": 9, \"files\": []}", "version 9"),
        (
            "{\"version\": 1, \"files\": [{\"name\": \"../a\", \"bytes\": 3, \"blake3\": \"\"}]}",
            "not the name",
        ),
    ] {
        fs::write(target.join(MANIFEST), text).unwrap();
        let message = Manifest::verify(&target, Verify::Lengths).unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    }
    fs::remove_file(target.join(MANIFEST)).unwrap();
    assert!(Manifest::verify(&target, Verify::Lengths).is_err());
}

#[test]
fn leftovers_of_a_killed_run_are_removed() {
    let parent = tempdir().unwrap();
    let run = parent.path();
    let mut folder = AtomicFolder::create(&run.join("probe/task")).unwrap();
    folder.write_bytes("a", b"one").unwrap();
    // A killed process drops nothing.
    std::mem::forget(folder);
    fs::write(run.join(".metrics.1-2.partial"), "x").unwrap();
    fs::write(run.join("kept.partial"), "x").unwrap();
    fs::write(run.join(".kept"), "x").unwrap();
    assert_eq!(names(&run.join("probe")).len(), 1);
    assert_eq!(remove_partial(run).unwrap(), 2);
    assert!(names(&run.join("probe")).is_empty());
    assert_eq!(names(run), [".kept", "kept.partial", "probe"]);
}

#[test]
fn checks_before_work() {
    let parent = tempdir().unwrap();
    let folder = parent.path().join("new/run");
    require_empty(&folder).unwrap();
    require_free_space(&folder, 1).unwrap();
    let message = require_free_space(&folder, 1 << 62).unwrap_err().to_string();
    assert!(message.contains("new/run: ") && message.contains("TiB are needed"), "{message}");
    assert!(!folder.exists());
    require_writable(&folder).unwrap();
    require_empty(&folder).unwrap();
    fs::write(folder.join("file"), "x").unwrap();
    assert!(require_empty(&folder).unwrap_err().to_string().contains("run: the folder is not empty"));

    // A path through a file cannot be written for anyone, the superuser included.
    let through = folder.join("file/out");
    for error in [
        require_writable(&through).unwrap_err(),
        write_bytes_atomically(&through, b"x").unwrap_err(),
        AtomicFolder::create(&through).map(drop).unwrap_err(),
        require_empty(&folder.join("file")).unwrap_err(),
    ] {
        assert!(error.to_string().contains("run/file"), "{error}");
    }
    for path in ["/", "..", ""] {
        write_bytes_atomically(Path::new(path), b"x").unwrap_err();
    }
}

#[test]
fn one_process_at_a_time() {
    let folder = tempdir().unwrap();
    let lock = FolderLock::take(folder.path()).unwrap();
    let message = FolderLock::take(folder.path()).unwrap_err().to_string();
    assert!(message.contains("another process"), "{message}");
    assert!(FolderLock::share(folder.path()).is_err());
    drop(lock);
    FolderLock::take(folder.path()).unwrap();
}

#[test]
fn those_that_share_a_folder_keep_it_from_others() {
    let folder = tempdir().unwrap();
    let shared = [(); 2].map(|()| FolderLock::share(folder.path()).unwrap());
    assert!(FolderLock::try_take(folder.path()).unwrap().is_none());
    drop(shared);
    assert!(FolderLock::try_take(folder.path()).unwrap().is_some());
}

/// Of several that create a file or move a folder to the same name, one succeeds.
#[test]
fn the_first_creates_a_file_and_moves_a_folder() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("record.json");
    let created = std::thread::scope(|scope| {
        let path = &path;
        let threads = [0; 8].map(|_| {
            scope.spawn(move || {
                let text = format!("{:?}", std::thread::current().id());
                create_atomically(path, text.as_bytes()).unwrap().then_some(text)
            })
        });
        threads.map(|thread| thread.join().unwrap())
    });
    let created: Vec<String> = created.into_iter().flatten().collect();
    assert_eq!(created, [fs::read_to_string(&path).unwrap()]);
    assert_eq!(names(folder.path()), ["record.json"]);

    let place = |name: &str| folder.path().join(name);
    for name in ["one", "other"] {
        fs::create_dir(place(name)).unwrap();
        fs::write(place(name).join(name), name).unwrap();
    }
    assert!(move_folder(&place("one"), &place("inner/made")).unwrap());
    assert!(!move_folder(&place("one"), &place("again")).unwrap(), "it is gone");
    assert!(!move_folder(&place("other"), &place("inner/made")).unwrap(), "one is there");
    assert_eq!(
        (names(&place("inner/made")), names(&place("other"))),
        (vec!["one".into()], vec!["other".into()])
    );
}
