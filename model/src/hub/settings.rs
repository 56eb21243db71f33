//! Where the hub is and where its files are kept: the variables that `huggingface_hub` reads too.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::error::HubError;
use crate::error::{Error, FileAction, Result};
use crate::files::read_text;

/// The hub where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub is, and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Folder of the cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Address of the server: `HF_ENDPOINT`.
    pub endpoint: String,
    /// What opens repositories that are not open to everybody: `HF_TOKEN`, else what `hf auth login` wrote.
    pub token: Option<String>,
    /// Use nothing but the cache: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Certificates to trust instead of those that browsers do, in PEM: `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`.
    pub certificates: Option<PathBuf>,
}

impl HubSettings {
    /// What the environment says.
    ///
    /// # Errors
    /// A variable that cannot be used, or no place for the cache.
    pub fn from_environment() -> Result<Self> {
        Self::read(&|name| std::env::var_os(name))
    }

    fn read(variable: &dyn Fn(&str) -> Option<OsString>) -> Result<Self> {
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let home = variable("HOME").or_else(|| variable("USERPROFILE")).map(PathBuf::from);
        let folder = |name: &str| Some(expand_home(variable(name)?.into(), home.as_deref()));
        let hub_home = folder("HF_HOME")
            .or_else(|| Some(folder("XDG_CACHE_HOME")?.join("huggingface")))
            .or_else(|| Some(home.as_ref()?.join(".cache/huggingface")));
        let cache = folder("HF_HUB_CACHE")
            .or_else(|| folder("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| Some(hub_home.as_ref()?.join("hub")));
        let cache = cache.ok_or_else(|| HubError::BadVariable {
            name: "HF_HOME",
            reason: "is needed where there is no home: set it to a folder for the hub's cache".to_owned(),
        })?;
        let text = |name: &'static str| match variable(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text.trim().to_owned())),
            Some(Err(_)) => Err(Box::new(HubError::BadVariable { name, reason: "is not UTF-8".to_owned() })),
        };
        let is_set = |name| Ok::<_, Box<HubError>>(text(name)?.is_some_and(|value| is_true(&value)));
        let token = match text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?) {
            None if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")? => None,
            None => {
                let file = folder("HF_TOKEN_PATH").or_else(|| Some(hub_home.as_ref()?.join("token")));
                file.map(|file| token_of_file(&file)).transpose()?.flatten()
            }
            token => token,
        };
        let token = token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let reason = "(or the file of the token) has characters that no token has".to_owned();
            return Err(HubError::BadVariable { name: "HF_TOKEN", reason }.into());
        }
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        if !["https://", "http://"].iter().any(|scheme| endpoint.starts_with(scheme)) {
            let reason = format!("is `{endpoint}`: write an address, as in {ENDPOINT}");
            return Err(HubError::BadVariable { name: "HF_ENDPOINT", reason }.into());
        }
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            offline: is_set("HF_HUB_OFFLINE")? || is_set("TRANSFORMERS_OFFLINE")?,
            certificates: folder("SSL_CERT_FILE").or_else(|| folder("REQUESTS_CA_BUNDLE")),
        })
    }
}

/// A path with `~` for the home in it, as shells write it and variables in files often hold it.
fn expand_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// As `huggingface_hub` reads it.
fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn token_of_file(file: &Path) -> Result<Option<String>> {
    match read_text(file) {
        Ok(text) => Ok(Some(text.split_whitespace().collect())),
        Err(Error::File { action: FileAction::Read, source, .. })
            if source.kind() == std::io::ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<HubSettings> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        HubSettings::read(&find)
    }

    #[test]
    fn the_cache_is_where_huggingface_hub_has_it() {
        let cache = |variables: &[(&str, &str)]| read(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/h")]), "/h/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/h"), ("HF_HOME", "~/f")]), "/h/f/hub");
        assert_eq!(cache(&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert!(read(&[]).err().unwrap().to_string().contains("HF_HOME"));
    }

    #[test]
    fn variables_are_read_as_huggingface_hub_reads_them() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        let home = folder.path().to_str().unwrap();
        let plain = read(&[("HF_HOME", home)]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        assert_eq!(plain.token.as_deref(), Some("hf_file"));
        let set = [
            ("HF_HOME", home),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "True"),
            ("HF_ENDPOINT", "http://m/"),
        ];
        let set = read(&set).unwrap();
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://m", true));
        assert_eq!(set.token.as_deref(), Some("hf_x"));
        let without = read(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap();
        assert_eq!(without.token, None);
        for (name, value) in [("HF_ENDPOINT", "mirror"), ("HF_TOKEN", "a b")] {
            let message = read(&[("HF_HOME", home), (name, value)]).err().unwrap().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
