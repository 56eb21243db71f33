//! What cannot be had, each in one line that says how to go on.

use std::path::Path;

use cpift_model::hub::ModelParts;
use cpift_tests::hub::{HubServer, closed_address};

use super::{Asking, Cache, MODEL, one_line};

#[test]
fn what_is_not_there_is_said_with_its_page() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    let (asking, address) = (Asking::of(&server), server.address());
    let (message, code) = cache.refused(&asking, "org/none");
    let expected = format!(
        "org/none: there is no such folder here, and there is no model of that name at {address}/org/none"
    );
    assert!(message.starts_with(&expected) && message.contains("HF_TOKEN"), "{message}");
    assert_eq!(code, 2);
    let (message, code) = cache.refused(&asking, "org/name@v9");
    assert_eq!(
        message,
        format!(
            "org/name has no revision `v9`: {address}/org/name/refs lists its branches, tags and commits"
        )
    );
    assert_eq!(code, 2);
    server.add("models/org/gguf", "main", &[("model.Q4_K_M.gguf", b"GGUF"), ("config.json", b"{}")]);
    let (message, code) = cache.refused(&asking, "org/gguf");
    assert!(
        message.starts_with("org/gguf holds a GGUF model (model.Q4_K_M.gguf), which is not read"),
        "{message}"
    );
    assert_eq!(code, 2);
}

#[test]
fn a_closed_repository_says_where_its_licence_is() {
    let (server, cache) = (HubServer::start(), Cache::new());
    server.add("models/org/name", "main", &MODEL);
    server.close("models/org/name");
    let (message, code) = cache.refused(&Asking::of(&server), "org/name");
    let expected = format!(
        "org/name is not open to everybody (401): accept its licence at {}/org/name and set HF_TOKEN to a token of yours",
        server.address()
    );
    assert_eq!((message.as_str(), code), (expected.as_str(), 2));
    let wrong = Asking { token: Some("hf_other"), ..Asking::of(&server) };
    let (message, _) = cache.refused(&wrong, "org/name");
    assert!(message.ends_with("; the one that was sent does not open it"), "{message}");
}

#[test]
fn a_closed_network_says_what_to_do() {
    let cache = Cache::new();
    let closed = Asking { endpoint: closed_address(), ..Asking::default() };
    let (message, code) = cache.refused(&closed, "org/name");
    assert!(
        message.starts_with(&format!(
            "org/name: there is no such folder here, and {} cannot be reached (",
            closed.endpoint
        )),
        "{message}"
    );
    for word in ["hf download org/name", "HF_ENDPOINT", "HF_HUB_OFFLINE", "folder"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(code, 1);
    let error = cache.data(&closed, "hf://datasets/org/rows/a.jsonl").unwrap_err();
    assert!(one_line(&error).0.contains("hf download --repo-type dataset org/rows"), "{error}");

    let offline = Asking { offline: true, ..closed };
    let (message, code) = cache.refused(&offline, "org/name");
    assert!(
        message.contains("HF_HUB_OFFLINE allows only ") && message.contains("revision main is incomplete"),
        "{message}"
    );
    assert_eq!(code, 2);
}

#[test]
fn paths_are_not_looked_for_on_the_hub() {
    let cache = Cache::new();
    let closed = Asking { endpoint: closed_address(), ..Asking::default() };
    let folder = cache.path().join("org");
    for path in [Path::new("gpt2"), Path::new("./org/name"), Path::new("a/b/c"), &folder] {
        let (found, _) = cache.ask(&closed, |hub| hub.model_folder(path, ModelParts::ALL));
        assert_eq!(found.unwrap(), path);
    }
    let (found, _) = cache.ask(&closed, |hub| hub.model_folder(Path::new("hf://a"), ModelParts::ALL));
    let (message, code) = one_line(&found.unwrap_err());
    assert!(message.starts_with("`hf://a` is no name of a model") && code == 2, "{message}");
}
