//! What is fetched, when, and what becomes of it when the way is bad.

use std::fs;

use cpift_model::hub::{HubOrigin, HubSource, ModelName, ModelParts, RepositoryKind};
use cpift_tests::hub::{Fault, FaultKind, HubServer, TOKEN, closed_address, hash};

use super::{Asking, Cache, MODEL};

const FILES: [&str; 5] = [
    "README.md",
    "additional_chat_templates/tool_use.jinja",
    "config.json",
    "model.safetensors",
    "tokenizer.json",
];

#[test]
fn a_model_is_fetched_once() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("models/org/name", "main", &MODEL);
    let asking = Asking::of(&server);
    assert_eq!(cache.model(&asking, "org/name").unwrap(), FILES);
    let requests = server.take_requests();
    assert!(!requests.iter().any(|request| request.contains("pytorch") || request.contains("onnx")));
    assert_eq!(requests.iter().filter(|request| request.starts_with("HEAD")).count(), 5);

    // The layout of `huggingface_hub`: content by its ETag, links from the commit, the commit by the branch.
    let repository = cache.path().join("models--org--name");
    assert_eq!(fs::read_to_string(repository.join("refs/main")).unwrap(), commit);
    let weights = repository.join("snapshots").join(&commit).join("model.safetensors");
    assert_eq!(fs::read(&weights).unwrap(), MODEL[4].1);
    #[cfg(unix)]
    {
        let target = format!("../../blobs/{}", hash(MODEL[4].1));
        assert_eq!(fs::read_link(&weights).unwrap().to_str().unwrap(), target);
    }

    // A branch may have moved: one request asks where it is.
    assert_eq!(cache.model(&asking, "org/name").unwrap(), FILES);
    assert_eq!(server.take_requests(), ["GET /api/models/org/name/revision/main"]);
    // A commit does not move.
    assert_eq!(cache.model(&asking, &format!("org/name@{commit}")).unwrap(), FILES);
    let offline = Asking { offline: true, ..asking.clone() };
    assert_eq!(cache.model(&offline, "org/name").unwrap(), FILES);
    assert_eq!(server.take_requests(), [""; 0]);

    // Of what moved only what is new is fetched.
    let mut files = MODEL;
    files[0].1 = b"{\"new\": 1}";
    server.add("models/org/name", "main", &files);
    cache.model(&asking, "org/name").unwrap();
    let requests = server.take_requests();
    let fetched: Vec<&String> = requests.iter().filter(|request| request.contains("GET /org")).collect();
    assert_eq!(fetched.len(), 1, "{requests:?}");
    assert!(fetched[0].ends_with("config.json"));
}

#[test]
fn without_a_network_the_cache_is_used_and_said_so() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "v1", &MODEL);
    cache.model(&Asking::of(&server), "org/name@v1").unwrap();
    let closed = Asking { endpoint: closed_address(), ..Asking::default() };
    let name = ModelName::parse("org/name@v1").unwrap();
    let (found, told) = cache.ask(&closed, |hub| hub.model(&name, ModelParts::ALL));
    found.unwrap();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(&format!("org/name@v1: {} cannot be reached", closed.endpoint)), "{told:?}");
}

#[test]
fn an_interrupted_download_goes_on_where_it_ended() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("models/org/name", "main", &MODEL);
    let cut = |times, most| Fault { file: "model.safetensors", kind: FaultKind::Cut(most), times };
    let large = format!("large:/models/org/name/{commit}/model.safetensors?signature=secret");
    let of_weights = |server: &HubServer| -> Vec<String> {
        server.take_requests().into_iter().filter(|request| request.contains("large:")).collect()
    };
    // Within one process.
    server.fail(cut(1, 7));
    cache.model(&Asking::of(&server), "org/name").unwrap();
    assert_eq!(of_weights(&server), [format!("GET {large}"), format!("GET {large} bytes=7-")]);

    // From one process to the next; what is incomplete is no file of the model.
    let cache = Cache::new();
    server.fail(cut(1, 5));
    server.fail(cut(4, 0));
    let (message, code) = cache.refused(&Asking::of(&server), "org/name");
    assert!(message.starts_with("org/name: only 5 of 18 bytes of model.safetensors came"), "{message}");
    assert_eq!(code, 1);
    let snapshot = cache.path().join("models--org--name/snapshots").join(&commit);
    assert!(snapshot.join("config.json").is_file() && !snapshot.join("model.safetensors").exists());
    let offline = Asking { offline: true, ..Asking::of(&server) };
    let (message, code) = cache.refused(&offline, "org/name");
    assert!(message.contains("model.safetensors is missing"), "{message}");
    assert_eq!(code, 2);
    of_weights(&server);
    cache.model(&Asking::of(&server), "org/name").unwrap();
    assert_eq!(of_weights(&server), [format!("GET {large} bytes=5-")]);
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), MODEL[4].1);

    // A server that knows no parts sends the whole again.
    let cache = Cache::new();
    server.fail(cut(1, 5));
    server.fail(Fault { kind: FaultKind::NoParts, ..cut(1, 0) });
    cache.model(&Asking::of(&server), "org/name").unwrap();
    let weights = cache.path().join("models--org--name/snapshots").join(&commit).join("model.safetensors");
    assert_eq!(fs::read(weights).unwrap(), MODEL[4].1);
}

#[test]
fn what_is_damaged_on_its_way_is_no_file_of_the_model() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    server.fail(Fault { file: "model.safetensors", kind: FaultKind::Damaged, times: 1 });
    let (message, code) = cache.refused(&Asking::of(&server), "org/name");
    assert!(message.contains("model.safetensors was damaged on its way (SHA-256 "), "{message}");
    assert_eq!(code, 1);
    let blobs: Vec<_> = fs::read_dir(cache.path().join("models--org--name/blobs")).unwrap().collect();
    assert_eq!(blobs.len(), 4, "of the weights nothing is kept");
    cache.model(&Asking::of(&server), "org/name").unwrap();
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    server.close("models/org/name");
    let asking = Asking { token: Some(TOKEN), ..Asking::of(&server) };
    cache.model(&asking, "org/name").unwrap();
    let requests = server.take_requests();
    assert!(requests.iter().any(|request| request.contains("large:")));
    for request in &requests {
        assert_eq!(request.ends_with(" token"), !request.contains("large:"), "{request}");
    }
}

#[test]
fn shards_are_those_of_the_index() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let index = br#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
    let files: [(&str, &[u8]); 7] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("consolidated.safetensors", b"both, twice"),
        ("adapter_model.safetensors", b"an adapter"),
    ];
    server.add("models/org/name", "main", &files);
    let asking = Asking::of(&server);
    let tokenizer = cache.model_parts(&asking, "org/name", ModelParts::TOKENIZER).unwrap();
    assert_eq!(tokenizer, ["config.json", "tokenizer.json"]);
    let whole = cache.model(&asking, "org/name").unwrap();
    let expected = [
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
    ];
    assert_eq!(whole, expected);

    server.add("models/org/lost", "main", &files[..4]);
    let (message, code) = cache.refused(&asking, "org/lost");
    assert!(message.contains("has no file model-2.safetensors"), "{message}");
    assert_eq!(code, 2);
}

#[test]
fn a_branch_stays_where_a_run_saw_it() {
    let (server, cache) = (HubServer::start(), Cache::new());
    let commit = server.add("models/org/name", "main", &MODEL);
    let name = ModelName::parse("org/name").unwrap();
    let source = HubSource {
        key: "model.base".to_owned(),
        kind: RepositoryKind::Model,
        origin: HubOrigin { repository: "org/name".to_owned(), revision: commit.clone() },
        asked: Some("main".to_owned()),
    };
    let mut files = MODEL;
    files[0].1 = b"moved";
    let moved = server.add("models/org/name", "main", &files);
    let asking = Asking::of(&server);
    let commit_of = |pinned: &[HubSource], name: &ModelName| {
        let found = cache.ask(&asking, |hub| {
            hub.pin(pinned);
            hub.model(name, ModelParts::ALL)
        });
        found.0.unwrap().commit.to_string()
    };
    assert_eq!(commit_of(std::slice::from_ref(&source), &name), commit);
    assert_eq!(commit_of(&[], &name), moved);
    // Another branch is another question.
    server.add("models/org/name", "other", &files);
    assert_eq!(commit_of(&[source], &ModelName::parse("org/name@other").unwrap()), moved);
}

#[test]
fn a_model_that_has_another_name_by_now_is_found() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    server.rename("org/name", "other/model");
    assert_eq!(cache.model(&Asking::of(&server), "org/name").unwrap(), FILES);
    assert!(server.take_requests().iter().any(|request| request.starts_with("HEAD /other/model/")));
}
