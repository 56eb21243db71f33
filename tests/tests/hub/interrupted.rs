//! What earlier processes left, and what others do at the same time.

use std::fs;
use std::path::PathBuf;
use std::thread;

use cpift_model::hub::{ModelName, ModelParts};
use cpift_tests::hub::{Fault, FaultKind, HubServer, closed_address, hash};

use super::{Asking, Cache, MODEL};

const WEIGHTS: &[u8] = MODEL[4].1;

fn weights(times: usize, kind: FaultKind) -> Fault {
    Fault { file: "model.safetensors", kind, times }
}

impl Cache {
    fn repository(&self) -> PathBuf {
        self.path().join("models--org--name")
    }

    /// The commit that a name is at, and what is told beside.
    fn commit(&self, asking: &Asking<'_>, name: &str) -> (String, Vec<String>) {
        let name = ModelName::parse(name).unwrap();
        let (found, told) = self.ask(asking, |hub| hub.model(&name, ModelParts::ALL));
        (found.unwrap().commit.to_string(), told)
    }
}

#[test]
fn processes_that_fetch_the_same_model_leave_each_other_its_files() {
    let server = HubServer::start();
    server.add("models/org/name", "main", &MODEL);
    for _ in 0..8 {
        let cache = Cache::new();
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    let name = ModelName::parse("org/name").unwrap();
                    let (found, _) = cache.ask(&Asking::of(&server), |hub| hub.model(&name, ModelParts::ALL));
                    let folder = found.unwrap().place;
                    for _ in 0..50 {
                        assert_eq!(fs::read(folder.join("model.safetensors")).unwrap(), WEIGHTS);
                        assert_eq!(fs::read(folder.join("config.json")).unwrap(), MODEL[0].1);
                    }
                });
            }
        });
    }
}

#[test]
fn a_snapshot_in_part_is_completed_or_told_of() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let more: [(&str, &[u8]); 1] = [("tokenizer_config.json", b"{}")];
    let commit = server.add("models/org/name", "main", &[&MODEL[..5], &more].concat());
    let asking = Asking::of(&server);
    let name = format!("org/name@{commit}");
    cache.model(&asking, &name).unwrap();
    let file = cache.repository().join("snapshots").join(&commit).join("tokenizer_config.json");
    fs::remove_file(&file).unwrap();
    for asking in
        [Asking { offline: true, ..asking.clone() }, Asking { endpoint: closed_address(), ..asking.clone() }]
    {
        let told = cache.commit(&asking, &name).1;
        let expected =
            "the cache has no tokenizer_config.json, and whether the model has is not known offline";
        assert!(told.last().unwrap().contains(expected), "{told:?}");
    }
    cache.model(&asking, &name).unwrap();
    assert!(file.is_file());
    // That the model has no other such file is known from here on.
    server.take_requests();
    cache.model(&asking, &name).unwrap();
    assert_eq!(server.take_requests(), [""; 0]);
    assert!(cache.repository().join(".no_exist").join(&commit).join("chat_template.jinja").is_file());
}

#[test]
fn a_server_that_fails_for_a_while_is_asked_again() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    server.fail(weights(1, FaultKind::Cut(5)));
    server.fail(weights(3, FaultKind::Status(503)));
    cache.model(&Asking::of(&server), "org/name").unwrap();

    let cache = Cache::new();
    server.fail(weights(1, FaultKind::Cut(5)));
    server.fail(weights(4, FaultKind::Status(503)));
    let (message, code) = cache.refused(&Asking::of(&server), "org/name");
    assert!(message.starts_with("org/name: only 5 of 18 bytes of model.safetensors came"), "{message}");
    assert!(message.contains("503") && message.ends_with("the same command continues there"), "{message}");
    assert_eq!(code, 1);
    // Only the rest is still to come.
    let (_, told) = cache.commit(&Asking::of(&server), "org/name");
    assert_eq!(told, ["1 files, 13 bytes"]);
}

#[test]
fn an_update_that_was_interrupted_leaves_the_earlier_commit() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let earlier = server.add("models/org/name", "main", &MODEL);
    let asking = Asking::of(&server);
    cache.model(&asking, "org/name").unwrap();
    let mut files = MODEL;
    files[4].1 = b"other weights";
    let later = server.add("models/org/name", "main", &files);
    server.fail(weights(4, FaultKind::Cut(0)));
    cache.refused(&asking, "org/name");
    let offline = Asking { offline: true, ..asking.clone() };
    assert_eq!(cache.commit(&offline, "org/name").0, earlier);
    assert_eq!(cache.commit(&asking, "org/name").0, later);
    assert_eq!(cache.commit(&offline, "org/name").0, later);
}

#[test]
fn a_wrong_partial_file_is_fetched_again() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("models/org/name", "main", &MODEL);
    let blobs = cache.repository().join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", hash(WEIGHTS))), "wrong").unwrap();
    cache.model(&Asking::of(&server), "org/name").unwrap();
    let large = format!("GET large:/models/org/name/{commit}/model.safetensors?signature=secret");
    let requests = server.take_requests();
    let requests: Vec<&String> = requests.iter().filter(|request| request.contains("large:")).collect();
    assert_eq!(requests, [&format!("{large} bytes=5-"), &large]);
    assert_eq!(fs::read(blobs.join(hash(WEIGHTS))).unwrap(), WEIGHTS);
}

#[test]
fn what_is_only_copied_may_be_impossible_to_store() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    // A folder in the place of a lock cannot be opened: not even by those who may write everywhere.
    let block = |cache: &Cache, content: &[u8]| {
        let lock = format!(".locks/models--org--name/{}.lock", &hash(content)[..40]);
        fs::create_dir_all(cache.path().join(lock)).unwrap();
    };
    block(&cache, MODEL[2].1);
    let (_, told) = cache.commit(&Asking::of(&server), "org/name");
    let is_told = |text: &String| text.starts_with("org/name: README.md cannot be stored and is left out: ");
    assert!(told.iter().any(is_told), "{told:?}");

    let cache = Cache::new();
    block(&cache, MODEL[0].1);
    cache.refused(&Asking::of(&server), "org/name");
}
