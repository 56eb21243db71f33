//! Where the hub is and where its files are kept: the variables that `huggingface_hub` reads too.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::hub_error::HubError;

/// The hub where nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";

/// Long enough for a server that is restarted once the pauses have doubled a few times.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// Where the hub is, and where its files are kept.
#[derive(Clone)]
pub struct HubSettings {
    /// Folder of the cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Address of the server: `HF_ENDPOINT`.
    pub endpoint: String,
    /// What opens repositories that are not open to everybody: `HF_TOKEN`.
    pub token: Option<String>,
    /// Where `hf auth login` wrote a token, which is read when the server is asked and there is no other; the file need not
    /// exist.
    pub token_file: Option<PathBuf>,
    /// Use nothing but the cache: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Certificates to trust instead of those that browsers do, in PEM: `SSL_CERT_FILE`, else `REQUESTS_CA_BUNDLE`.
    pub certificates: Option<PathBuf>,
    /// Pause before a download is attempted again where an attempt brought nothing; each further one is twice as long.
    pub first_pause: Duration,
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
        // As in `huggingface_hub`, the variable's token is implicit too.
        let (token, token_file) = if is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")? {
            (None, None)
        } else {
            let token =
                text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?).filter(|token| !token.is_empty());
            let file = folder("HF_TOKEN_PATH").or_else(|| Some(hub_home.as_ref()?.join("token")));
            (token, file)
        };
        if token.as_ref().is_some_and(|token| !is_token(token)) {
            let reason = "has characters that no token has".to_owned();
            return Err(HubError::BadVariable { name: "HF_TOKEN", reason }.into());
        }
        let endpoint = text("HF_ENDPOINT")?.unwrap_or_else(|| ENDPOINT.to_owned());
        check_endpoint(&endpoint)?;
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token,
            token_file,
            offline: is_set("HF_HUB_OFFLINE")? || is_set("TRANSFORMERS_OFFLINE")?,
            certificates: folder("SSL_CERT_FILE").or_else(|| folder("REQUESTS_CA_BUNDLE")),
            first_pause: FIRST_PAUSE,
        })
    }

    /// The token to send.
    ///
    /// # Errors
    /// The file of `hf auth login` cannot be read, or holds no token.
    pub(crate) fn token(&self) -> Result<Option<String>> {
        match (&self.token, &self.token_file) {
            (None, Some(file)) => token_of_file(file),
            (token, _) => Ok(token.clone()),
        }
    }
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Fails unless an address of the server can be used; what may be a password is not repeated.
fn check_endpoint(endpoint: &str) -> Result<()> {
    let refuse = |reason: String| Err(HubError::BadVariable { name: "HF_ENDPOINT", reason }.into());
    if endpoint.contains('@') {
        return refuse(format!("holds a user or a password, which are not sent: write as in {ENDPOINT}"));
    }
    let uri = endpoint.parse::<Uri>().ok();
    let is_usable = uri.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    });
    match is_usable {
        true => Ok(()),
        false => refuse(format!("is `{endpoint}`: write an address, as in {ENDPOINT}")),
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
    let unusable = |reason: String| {
        let advice = "log in again, or set HF_TOKEN or HF_HUB_DISABLE_IMPLICIT_TOKEN=1";
        Error::format(file, format!("the token of `hf auth login` {reason}: {advice}"))
    };
    let text = match read_text(file) {
        Ok(text) => text.split_whitespace().collect::<String>(),
        Err(Error::File { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
        Err(Error::File { source, .. }) => return Err(unusable(format!("cannot be read ({source})"))),
        Err(_) => return Err(unusable("is not UTF-8".to_owned())),
    };
    match is_token(&text) {
        true => Ok(Some(text).filter(|text| !text.is_empty())),
        false => Err(unusable("has characters that no token has".to_owned())),
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
        assert_eq!(plain.token().unwrap().as_deref(), Some("hf_file"));
        let set = [
            ("HF_HOME", home),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "True"),
            ("HF_ENDPOINT", "http://m/"),
        ];
        let set = read(&set).unwrap();
        assert_eq!((set.endpoint.as_str(), set.offline), ("http://m", true));
        assert_eq!(set.token.as_deref(), Some("hf_x"));
        let without = [("HF_HOME", home), ("HF_TOKEN", "hf_x"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(read(&without).unwrap().token().unwrap(), None);
        let bad = [
            ("HF_ENDPOINT", "mirror"),
            ("HF_ENDPOINT", "http://a b/"),
            ("HF_ENDPOINT", "http://user:secret@mirror"),
            ("HF_TOKEN", "a b"),
        ];
        for (name, value) in bad {
            let error = read(&[("HF_HOME", home), (name, value)]).err().unwrap();
            let message = error.to_string();
            assert!(message.contains(name) && !message.contains("secret"), "{message}");
            assert_eq!(error.exit_code(), 2);
        }
    }

    #[test]
    fn a_token_that_cannot_be_read_stops_only_those_who_send_it() {
        let folder = tempfile::TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), [0xff]).unwrap();
        let settings = read(&[("HF_HOME", folder.path().to_str().unwrap())]).unwrap();
        let message = settings.token().unwrap_err().to_string();
        assert!(message.contains("token: the token of `hf auth login` cannot be read"), "{message}");
    }
}
