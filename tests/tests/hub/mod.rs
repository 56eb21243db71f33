//! Models and data by their names on the hub, from a server on this machine.

mod data;
mod fetching;
mod interrupted;
mod refused;

use std::cell::RefCell;
use std::path::Path;
use std::time::Duration;

use cpift_model::hub::{Hub, HubError, HubEvent, HubName, HubSettings, ModelName, ModelParts};
use cpift_model::{Error, Result};
use cpift_tests::hub::HubServer;
use tempfile::TempDir;

/// A cache that is empty at first.
struct Cache {
    folder: TempDir,
}

/// How the hub is asked.
#[derive(Clone, Default)]
struct Asking<'a> {
    endpoint: String,
    token: Option<&'a str>,
    offline: bool,
}

impl Asking<'_> {
    fn of(server: &HubServer) -> Self {
        Self { endpoint: server.address(), ..Self::default() }
    }
}

impl Cache {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Asks the hub as one process does; returns what it told beside.
    fn ask<T>(&self, asking: &Asking<'_>, ask: impl FnOnce(&Hub<'_>) -> T) -> (T, Vec<String>) {
        let told = RefCell::new(Vec::new());
        let observe = |event: HubEvent<'_>| match event {
            HubEvent::Notice(text) => told.borrow_mut().push(text.to_owned()),
            HubEvent::Begun(download) => {
                told.borrow_mut().push(format!("{} files, {} bytes", download.files, download.bytes));
            }
            HubEvent::Progress(download, bytes) => assert!(bytes <= download.bytes, "more than there is"),
            HubEvent::Finished(_) => {}
        };
        let settings = HubSettings {
            cache: self.path().to_owned(),
            endpoint: asking.endpoint.clone(),
            token: asking.token.map(str::to_owned),
            offline: asking.offline,
            token_file: None,
            certificates: None,
            first_pause: Duration::ZERO,
        };
        let answer = ask(&Hub::new(settings, &observe));
        (answer, told.into_inner())
    }

    /// The folder of a model, relative to the cache, and the names of the files in it.
    fn model(&self, asking: &Asking<'_>, name: &str) -> Result<Vec<String>> {
        self.model_parts(asking, name, ModelParts::ALL)
    }

    fn model_parts(&self, asking: &Asking<'_>, name: &str, parts: ModelParts) -> Result<Vec<String>> {
        let found = self.ask(asking, |hub| hub.model(&ModelName::parse(name).unwrap(), parts)).0?;
        let mut names = Vec::new();
        list(&found.place, "", &mut names);
        names.sort();
        Ok(names)
    }

    fn refused(&self, asking: &Asking<'_>, name: &str) -> (String, u8) {
        let error = self.model(asking, name).unwrap_err();
        one_line(&error)
    }

    /// The content of data files.
    fn data(&self, asking: &Asking<'_>, name: &str) -> Result<Vec<String>> {
        let HubName::Data(name) = HubName::parse(name).map_err(HubError::from)? else {
            panic!("{name} is no data")
        };
        let found = self.ask(asking, |hub| hub.data(&name)).0?;
        Ok(found.place.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect())
    }
}

fn one_line(error: &Error) -> (String, u8) {
    let message = error.to_string();
    assert!(!message.contains('\n') && message.len() < 500, "{message}");
    (message, error.exit_code())
}

fn list(folder: &Path, prefix: &str, names: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = format!("{prefix}{}", entry.file_name().to_str().unwrap());
        if entry.path().is_dir() {
            list(&entry.path(), &format!("{name}/"), names);
        } else {
            names.push(name);
        }
    }
}

/// Files of a model that nobody loads.
const MODEL: [(&str, &[u8]); 7] = [
    ("config.json", b"{}"),
    ("tokenizer.json", b"{ }"),
    ("README.md", b"# A model"),
    ("additional_chat_templates/tool_use.jinja", b"tools"),
    ("model.safetensors", b"0123456789 weights"),
    ("pytorch_model.bin", b"pickle"),
    ("onnx/model.onnx", b"onnx"),
];
