//! What is asked of the hub's server.

use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy};

use crate::error::{Error, Result};
use crate::files::read_input;
use crate::hub_cache::HubSettings;
use crate::hub_error::{HubError, HubResult};
use crate::hub_names::{Commit, Repository};

/// Longest wait for a connection.
const CONNECTING: Duration = Duration::from_secs(10);
/// Longest wait for an answer, and between two pieces of a file.
const WAITING: Duration = Duration::from_secs(60);

/// Most bytes of a list of files: the largest repositories have a hundred thousand.
const LONGEST_LISTING: u64 = 64 << 20;
/// Most bytes of a file of certificates.
const LONGEST_CERTIFICATES: u64 = 16 << 20;

/// Most addresses that an answer may lead through.
const MOST_REDIRECTS: usize = 10;

/// What stays as it is in an address, as in `urllib.parse.quote`.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The files of a repository at a commit.
#[derive(Debug)]
pub(super) struct Listing {
    pub commit: Commit,
    pub files: Vec<String>,
}

/// What the server says about the content of a file.
#[derive(Debug)]
pub(super) struct Metadata {
    /// Names the content: its SHA-256 where the file is large, else the hash that Git has for it.
    pub etag: String,
    /// Length in bytes.
    pub size: u64,
}

/// The content of a file on its way.
pub(super) struct Content {
    /// The first byte of the file that comes.
    pub from: u64,
    pub reader: Box<dyn Read>,
}

/// The server.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
    first_pause: Duration,
}

/// What an answer is about, for messages.
struct Asked<'a> {
    repository: &'a Repository,
    revision: &'a str,
    file: Option<(&'a Commit, &'a str)>,
}

/// The interface's description of a repository; other fields are for people.
#[derive(Deserialize)]
struct RepositoryInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    /// A client that has asked for nothing yet.
    ///
    /// # Errors
    /// The file of certificates cannot be used.
    pub fn new(settings: &HubSettings) -> Result<Self> {
        let mut tls = TlsConfig::builder();
        if let Some(path) = &settings.certificates {
            let mut certificates: Vec<Certificate<'static>> = Vec::new();
            for item in parse_pem(&read_input(path, LONGEST_CERTIFICATES)?) {
                let reason = |error| {
                    Error::format(
                        path,
                        format!(
                            "is no file of certificates, as SSL_CERT_FILE (else REQUESTS_CA_BUNDLE) has to name: {error}"
                        ),
                    )
                };
                if let PemItem::Certificate(certificate) = item.map_err(reason)? {
                    certificates.push(certificate);
                }
            }
            if certificates.is_empty() {
                let reason = "holds no certificate in PEM: SSL_CERT_FILE (else REQUESTS_CA_BUNDLE) names it";
                return Err(Error::format(path, reason));
            }
            tls = tls.root_certs(RootCerts::new_with_certs(&certificates));
        }
        let config = Agent::config_builder()
            .tls_config(tls.build())
            .http_status_as_error(false)
            // Each address is asked on its own, so that the one that fails is named and only the hub's gets the token.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("cpift-engine/", env!("CARGO_PKG_VERSION")))
            // The size is that of the file, not of what it is packed into.
            .accept_encoding("identity")
            .timeout_resolve(Some(CONNECTING))
            .timeout_connect(Some(CONNECTING))
            .timeout_recv_response(Some(WAITING))
            .timeout_per_read(Some(WAITING))
            .build();
        Ok(Self {
            agent: config.into(),
            endpoint: settings.endpoint.clone(),
            token: settings.token()?,
            cache: settings.cache.clone(),
            first_pause: settings.first_pause,
        })
    }

    /// Pause after a first attempt that brought nothing.
    pub fn first_pause(&self) -> Duration {
        self.first_pause
    }

    /// The commit of a revision, and its files.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn listing(&self, repository: &Repository, revision: &str) -> HubResult<Listing> {
        let kind = repository.kind.plural();
        let address = format!("{}/api/{kind}/{repository}/revision/{}", self.endpoint, encode(revision));
        let asked = Asked { repository, revision, file: None };
        let mut response = self.get(&asked, &address, None)?;
        let invalid = |reason: String| self.answer(repository, &address, reason);
        let text = response.body_mut().with_config().limit(LONGEST_LISTING).read_to_string();
        let text = text.map_err(|error| self.unreachable(repository, &address, describe(&error)))?;
        let info: RepositoryInfo = serde_json::from_str(&text).map_err(|error| {
            invalid(format!("does not answer as the hub does ({error}): look at HF_ENDPOINT"))
        })?;
        let commit = Commit::parse(&info.sha)
            .ok_or_else(|| invalid("names no commit: look at HF_ENDPOINT".to_owned()))?;
        Ok(Listing { commit, files: info.siblings.into_iter().map(|file| file.rfilename).collect() })
    }

    /// What the server says about a file.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn metadata(&self, repository: &Repository, commit: &Commit, file: &str) -> HubResult<Metadata> {
        let address = self.file_address(repository, commit, file);
        let asked = Asked { repository, revision: commit.as_str(), file: Some((commit, file)) };
        let response = self.head(&asked, &address)?;
        let invalid = |reason: &str| self.answer(repository, &address, reason.to_owned());
        let etag = text_of(&response, ["x-linked-etag", "etag"])
            .map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned())
            .filter(|etag| is_file_name(etag))
            .ok_or_else(|| invalid("does not say which content it has (ETag)"))?;
        // The length of an answer that leads elsewhere is not the file's.
        let names = if response.status().is_redirection() {
            ["x-linked-size", "x-linked-size"]
        } else {
            ["x-linked-size", "content-length"]
        };
        let size = text_of(&response, names).and_then(|size| size.parse().ok());
        Ok(Metadata { etag, size: size.ok_or_else(|| invalid("does not say how long it is"))? })
    }

    /// The content of a file from a byte on, or from the first where the server knows no parts of files.
    ///
    /// # Errors
    /// [`HubError`].
    pub fn content(
        &self,
        repository: &Repository,
        commit: &Commit,
        file: &str,
        from: u64,
    ) -> HubResult<Content> {
        let address = self.file_address(repository, commit, file);
        let asked = Asked { repository, revision: commit.as_str(), file: Some((commit, file)) };
        let response = self.get(&asked, &address, (from > 0).then_some(from))?;
        let start = match response.status() {
            StatusCode::PARTIAL_CONTENT => text_of(&response, ["content-range"])
                .and_then(|range| range.trim_start_matches("bytes ").split('-').next()?.trim().parse().ok())
                .ok_or_else(|| {
                    self.answer(repository, &address, "sends a part and does not say which".into())
                })?,
            _ => 0,
        };
        if start != 0 && start != from {
            return Err(self.answer(repository, &address, format!("sends byte {start} on, not {from}")));
        }
        Ok(Content { from: start, reader: Box::new(response.into_body().into_reader()) })
    }

    fn file_address(&self, repository: &Repository, commit: &Commit, file: &str) -> String {
        let prefix = repository.kind.page_prefix();
        let file = file.split('/').map(encode).collect::<Vec<_>>().join("/");
        format!("{}/{prefix}{repository}/resolve/{commit}/{file}", self.endpoint)
    }

    /// Asks for what is at an address, wherever that leads.
    fn get(&self, asked: &Asked<'_>, address: &str, from: Option<u64>) -> HubResult<Response<Body>> {
        let ask = |address: &str| self.exchange(asked, Method::GET, address, from);
        self.follow(asked, address, ask, |_, _, _| true)
    }

    /// Asks what is said of an address by the hub itself: files are kept elsewhere, where less is known of them.
    fn head(&self, asked: &Asked<'_>, address: &str) -> HubResult<Response<Body>> {
        let ask = |address: &str| self.exchange(asked, Method::HEAD, address, None);
        // A repository that has another name now, or a mirror's own address.
        self.follow(asked, address, ask, |response, address, next| {
            origin_of(next) == origin_of(address) && text_of(response, ["x-linked-etag"]).is_none()
        })
    }

    /// Asks at an address, and at those that the answers lead to as long as `leads_on` says so of answer, address and next
    /// address.
    fn follow(
        &self,
        asked: &Asked<'_>,
        address: &str,
        ask: impl Fn(&str) -> HubResult<Response<Body>>,
        leads_on: impl Fn(&Response<Body>, &str, &str) -> bool,
    ) -> HubResult<Response<Body>> {
        let mut address = address.to_owned();
        for _ in 0..MOST_REDIRECTS {
            let response = ask(&address)?;
            match redirect(&response, &address).filter(|next| leads_on(&response, &address, next)) {
                Some(next) => address = next,
                None => return self.accept(asked, &address, response),
            }
        }
        Err(self.answer(asked.repository, &address, "leads from one address to the next".to_owned()))
    }

    fn exchange(
        &self,
        asked: &Asked<'_>,
        method: Method,
        address: &str,
        from: Option<u64>,
    ) -> HubResult<Response<Body>> {
        let mut request = Request::builder().method(method).uri(address);
        if let (Some(token), true) = (&self.token, origin_of(address) == origin_of(&self.endpoint)) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let request = request.body(());
        let request = request.map_err(|error| self.answer(asked.repository, address, error.to_string()))?;
        self.agent.run(request).map_err(|error| {
            let reason = describe(&error) + &self.by_proxy(address);
            self.unreachable(asked.repository, address, reason)
        })
    }

    /// What to say of the proxy that stands between; nothing where none does.
    fn by_proxy(&self, address: &str) -> String {
        let stands_between = |proxy: &&Proxy| !address.parse().is_ok_and(|uri| proxy.is_no_proxy(&uri));
        let proxy = self.agent.config().proxy().filter(stands_between);
        proxy.map(|proxy| format!(", by the proxy {}:{}", proxy.host(), proxy.port())).unwrap_or_default()
    }

    /// The answer, where its status is that of one with content.
    fn accept(
        &self,
        asked: &Asked<'_>,
        address: &str,
        response: Response<Body>,
    ) -> HubResult<Response<Body>> {
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        if origin_of(address) != origin_of(&self.endpoint) {
            // The host of large files, which knows nothing of repositories.
            return Err(self.unreachable(asked.repository, address, format!("it answers {status}")));
        }
        let Asked { repository, revision, file } = *asked;
        let page = format!("{}/{}{repository}", self.endpoint, repository.kind.page_prefix());
        let (repository, has_token) = (repository.clone(), self.token.is_some());
        let code = text_of(&response, ["x-error-code"]).unwrap_or_default();
        Err(match (status.as_u16(), code) {
            (_, "RepoNotFound") => HubError::NoRepository { repository, page, has_token }.into(),
            (_, "RevisionNotFound") => {
                let page = format!("{page}/refs");
                HubError::NoRevision { repository, revision: revision.to_owned(), page }.into()
            }
            (404, _) => match file {
                Some((commit, file)) => HubError::NoFile {
                    repository,
                    commit: commit.clone(),
                    file: file.to_owned(),
                    hint: String::new(),
                }
                .into(),
                None => HubError::NoRepository { repository, page, has_token }.into(),
            },
            (status @ (401 | 403), _) => HubError::Denied { repository, page, status, has_token }.into(),
            (status, _) if status >= 500 || status == 429 => {
                self.unreachable(asked.repository, address, format!("it answers {status}"))
            }
            (status, _) => self.answer(asked.repository, address, format!("answers {status}")),
        })
    }

    fn unreachable(&self, repository: &Repository, address: &str, reason: String) -> Box<HubError> {
        Box::new(HubError::Unreachable {
            repository: repository.clone(),
            address: origin_of(address).unwrap_or_else(|| address.to_owned()),
            reason,
            cache: self.cache.clone(),
        })
    }

    fn answer(&self, repository: &Repository, address: &str, reason: String) -> Box<HubError> {
        // What follows the question mark may be a signature that opens the file.
        let address = address.split('?').next().unwrap_or_default().to_owned();
        Box::new(HubError::Answer { repository: repository.clone(), address, reason })
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, UNRESERVED).to_string()
}

/// The first of these headers that is there.
fn text_of<'a, const N: usize>(response: &'a Response<Body>, names: [&str; N]) -> Option<&'a str> {
    names.iter().find_map(|name| response.headers().get(*name)?.to_str().ok())
}

/// Whether a text can be the name of a file and nothing else.
fn is_file_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=128).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_allowed)
}

/// Where an answer leads: an address, or one relative to that which was asked.
fn redirect(response: &Response<Body>, address: &str) -> Option<String> {
    if !response.status().is_redirection() {
        return None;
    }
    resolve(response.headers().get(header::LOCATION)?.to_str().ok()?, address)
}

fn resolve(location: &str, address: &str) -> Option<String> {
    let has_scheme = location.split_once("://").is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    if has_scheme {
        return Some(location.to_owned());
    }
    if location.starts_with("//") {
        return Some(format!("{}:{location}", address.split(':').next()?));
    }
    if location.starts_with('/') {
        return Some(format!("{}{location}", origin_of(address)?));
    }
    let path = address.split(['?', '#']).next()?;
    if location.starts_with('?') {
        return Some(format!("{path}{location}"));
    }
    // Beside the last part of the path.
    let folder = path.get(..=path.rfind('/')?)?;
    Some(format!("{folder}{location}"))
}

/// `https://host:port` of an address, without the port that its scheme has anyway.
fn origin_of(address: &str) -> Option<String> {
    let uri: Uri = address.parse().ok()?;
    let (scheme, host) = (uri.scheme_str()?, uri.host()?.to_ascii_lowercase());
    let port = uri.port_u16().filter(|port| !matches!((scheme, port), ("https", 443) | ("http", 80)));
    Some(format!("{scheme}://{host}{}", port.map(|port| format!(":{port}")).unwrap_or_default()))
}

/// What went wrong with a connection.
fn describe(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::HostNotFound => "there is no such host, or no network".to_owned(),
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_resolved_and_compared() {
        let address = "https://hub/api/models/a?x=1";
        for (location, expected) in [
            ("https://cdn/a", "https://cdn/a"),
            ("//cdn/a", "https://cdn/a"),
            ("/b?next=http://c", "https://hub/b?next=http://c"),
            ("b", "https://hub/api/models/b"),
            ("?y=2", "https://hub/api/models/a?y=2"),
        ] {
            assert_eq!(resolve(location, address).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(origin_of("https://Hub:443/a"), origin_of("https://hub/b"));
        assert_ne!(origin_of("https://hub:80/a"), origin_of("https://hub/b"));
        assert_eq!(origin_of("http://hub:8080/a").as_deref(), Some("http://hub:8080"));
    }
}
