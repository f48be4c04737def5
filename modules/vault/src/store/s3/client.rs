//! Requests to one bucket: signed, sent, and sent again as long as there is hope.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use md5::Md5;
use pc_switcher_contract::{Clock, ErrorKind, ModuleError};
use sha2::{Digest as _, Sha256};
use ureq::Agent;
use ureq::config::AutoHeaderValue;
use ureq::http;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{Connector as _, RustlsConnector};

use super::Credentials;
use super::answer::{Answer, Verdict, explain};
use super::place::Location;
use super::sign::{self, Signed};
use super::wire::{Dialler, Names, Patience};
use crate::error::{Result, usage};
use crate::store::Stop;

/// No object is larger: packs are of 16 MiB, restic's of up to 128 MiB.
const LARGEST: u64 = 4 << 30;
/// Where systems keep the certificates that they trust; without any the ones that are built in count.
const TRUSTED: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// How long is hoped for.
#[derive(Debug, Clone)]
pub struct Retries {
    /// How often a request is sent at most.
    pub most: u32,
    /// The first pause; each is twice the one before.
    pub first: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How long nothing may come or go on a connection.
    pub silence: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        let (first, longest) = (Duration::from_millis(200), Duration::from_secs(10));
        Self { most: 8, first, longest, silence: Duration::from_secs(60) }
    }
}

impl Retries {
    /// Returns how long to wait after an attempt; what the server asks for counts, within reason.
    fn pause(&self, attempt: u32, asked: Option<u64>) -> Duration {
        let grown = self.first.saturating_mul(1 << attempt.saturating_sub(1).min(16));
        let asked = Duration::from_secs(asked.unwrap_or(0)).min(3 * self.longest);
        grown.min(self.longest).max(asked)
    }
}

/// One request.
#[derive(Debug, Default)]
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    /// The name of the object; none for the bucket itself.
    pub(super) key: &'a str,
    pub(super) query: Vec<(&'static str, String)>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: &'a [u8],
    /// Whether a stop ends it: what tidies up goes on.
    pub(super) is_stopped: bool,
}

/// What all clients share.
#[derive(Clone)]
pub(super) struct Line {
    pub(super) region: String,
    pub(super) path_style: bool,
    pub(super) clock: Clock,
    pub(super) stop: Stop,
    pub(super) retries: Retries,
    pub(super) roots: RootCerts,
}

/// Speaks to one bucket.
pub(super) struct Client {
    place: Location,
    line: Line,
    credentials: Credentials,
    /// For what a stop ends, and for what it does not.
    agents: [Agent; 2],
    /// Whether the server ever answered: if not, there is less hope.
    was_reached: AtomicBool,
}

/// Returns the certificates that are trusted: the system's, and those of a file.
pub(super) fn trusted(more: Option<&Path>) -> Result<RootCerts> {
    let certificates = |text: &[u8]| -> Vec<_> {
        let all = parse_pem(text).filter_map(std::result::Result::ok);
        all.filter_map(|item| if let PemItem::Certificate(one) = item { Some(one) } else { None }).collect()
    };
    let system = TRUSTED.iter().find_map(|path| std::fs::read(path).ok());
    let mut all = certificates(&system.unwrap_or_default());
    if let Some(path) = more {
        let wrong = |why: String| usage(format!("cannot read certificates from `{}`: {why}", path.display()));
        let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let own = certificates(&text);
        if own.is_empty() {
            return Err(wrong("there are none".into()));
        }
        all.extend(own);
    }
    Ok(if all.is_empty() { RootCerts::WebPki } else { RootCerts::from(all) })
}

impl Client {
    pub(super) fn new(place: Location, line: Line, credentials: Credentials) -> Self {
        let agents = [true, false].map(|is_stopped| agent(&line, is_stopped));
        Self { place, line, credentials, agents, was_reached: AtomicBool::new(false) }
    }

    pub(super) fn place(&self) -> &Location {
        &self.place
    }

    /// Sends a request until there is an answer that another attempt would not change. The second value says whether an
    /// earlier attempt may have been carried out all the same.
    pub(super) fn call(&self, request: &Request<'_>) -> Result<(Answer, bool)> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            if request.is_stopped && self.line.stop.is_asked() {
                return Err(ModuleError::cancelled());
            }
            let sent = self.send(request);
            if sent.is_err() && self.line.stop.is_asked() {
                return Err(ModuleError::cancelled());
            }
            let hope = match &sent {
                _ if self.line.stop.is_asked() => 1,
                Err(ureq::Error::HostNotFound) if !self.was_reached.load(Ordering::Relaxed) => 1,
                Err(_) if !self.was_reached.load(Ordering::Relaxed) => self.line.retries.most.min(2),
                _ => self.line.retries.most,
            };
            let asked = match sent {
                Ok(answer) => {
                    self.was_reached.store(true, Ordering::Relaxed);
                    if answer.verdict() != Verdict::Again || attempt >= hope {
                        return Ok((answer, attempt > 1));
                    }
                    answer.retry_after
                }
                Err(error) if attempt >= hope || is_final(&error) => return Err(self.unreachable(&error)),
                Err(_) => None,
            };
            self.line.stop.wait(self.line.retries.pause(attempt, asked));
        }
    }

    fn send(&self, request: &Request<'_>) -> std::result::Result<Answer, ureq::Error> {
        let Location { endpoint, bucket, .. } = &self.place;
        let (host, root) = match self.line.path_style {
            true => (endpoint.host.clone(), format!("/{bucket}")),
            false => (format!("{bucket}.{}", endpoint.host), String::new()),
        };
        let path = sign::encode(&format!("{root}/{}", request.key), true);
        let path = if request.key.is_empty() && !root.is_empty() { root } else { path };
        let query = sign::query(&request.query);
        let at = (self.line.clock)();
        let digest = sign::digest(request.body);
        let mut headers = vec![
            ("host", host.clone()),
            ("x-amz-content-sha256", digest.clone()),
            ("x-amz-date", sign::stamp(at)),
        ];
        headers.extend(self.credentials.token.iter().map(|token| ("x-amz-security-token", token.clone())));
        let has_body = matches!(request.method, "PUT" | "POST");
        if has_body {
            headers.push(("content-md5", BASE64.encode(&Md5::digest(request.body))));
        }
        if request.method == "PUT" {
            // Buckets with object lock want one of the two, and not every server knows the newer one.
            headers.push(("x-amz-checksum-sha256", BASE64.encode(&Sha256::digest(request.body))));
        }
        headers.extend(request.headers.iter().cloned());
        let signed = Signed {
            method: request.method,
            path: &path,
            query: &query,
            headers: &headers,
            body: &digest,
            region: &self.line.region,
            at,
        };
        headers.push(("authorization", sign::authorization(&signed, &self.credentials)));
        let scheme = if endpoint.secure { "https" } else { "http" };
        let mark = if query.is_empty() { "" } else { "?" };
        let mut built = http::Request::builder()
            .method(request.method)
            .uri(format!("{scheme}://{host}{path}{mark}{query}"));
        for (name, value) in &headers {
            built = built.header(*name, value.as_str());
        }
        let agent = &self.agents[usize::from(!request.is_stopped)];
        let mut response = match has_body {
            true => agent.run(built.body(request.body).map_err(ureq::Error::Http)?)?,
            false => agent.run(built.body(()).map_err(ureq::Error::Http)?)?,
        };
        let header = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
        let [region, storage_class, archive_status, restore] =
            ["x-amz-bucket-region", "x-amz-storage-class", "x-amz-archive-status", "x-amz-restore"]
                .map(header);
        let retry_after = header("retry-after").and_then(|seconds| seconds.parse().ok());
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(LARGEST).read_to_vec()?;
        let is_bare = request.method == "HEAD";
        Ok(Answer { status, body, region, retry_after, is_bare, storage_class, archive_status, restore })
    }

    /// Says what is wrong with an answer.
    pub(super) fn explain(&self, what: &str, answer: &Answer) -> ModuleError {
        explain(what, &self.place, &self.line.region, answer)
    }

    /// Says that the server cannot be spoken to.
    fn unreachable(&self, error: &ureq::Error) -> ModuleError {
        let (endpoint, bucket) = (&self.place.endpoint, &self.place.bucket);
        let (why, hint) = match error {
            ureq::Error::HostNotFound => {
                ("no machine of this name is known".into(), "is the name right, and is there a network?")
            }
            error if is_final(error) => (
                inner(error),
                "a certificate of one's own is named with `ca_file`; what speaks no TLS begins with `http://`",
            ),
            error => (inner(error), "is there a network, and is the endpoint right?"),
        };
        let message = format!("cannot reach `{endpoint}` for the bucket `{bucket}`: {why}");
        ModuleError::new(ErrorKind::Unreachable, message).hint(hint)
    }
}

fn agent(line: &Line, is_stopped: bool) -> Agent {
    let patience = Patience { stop: line.stop.clone(), is_stopped, silence: line.retries.silence };
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .user_agent(concat!("pc-switcher/", env!("CARGO_PKG_VERSION")))
        .accept(AutoHeaderValue::None)
        .accept_encoding(AutoHeaderValue::None)
        .max_idle_connections_per_host(16)
        .tls_config(TlsConfig::builder().root_certs(line.roots.clone()).build())
        .build();
    let connector = Dialler(patience.clone()).chain(RustlsConnector::default());
    Agent::with_parts(config, connector, Names(patience))
}

/// Whether no later attempt goes better: the server speaks no TLS, or shows a certificate that is not trusted.
fn is_final(error: &ureq::Error) -> bool {
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Http(_) | ureq::Error::BadUri(_) => true,
        ureq::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

fn inner(error: &ureq::Error) -> String {
    match error {
        ureq::Error::Io(error) => error.to_string(),
        ureq::Error::Rustls(error) => error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_heed_the_server() {
        let retries = Retries::default();
        let all: Vec<u128> = (1..8).map(|attempt| retries.pause(attempt, None).as_millis()).collect();
        assert_eq!(all, [200, 400, 800, 1_600, 3_200, 6_400, 10_000]);
        assert_eq!(retries.pause(1, Some(3)), Duration::from_secs(3));
        assert_eq!(retries.pause(1, Some(86_400)), Duration::from_secs(30));
        assert_eq!(retries.pause(u32::MAX, None), Duration::from_secs(10));
    }

    #[test]
    fn certificates_of_a_file_that_has_none_are_said_to_be_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(trusted(Some(&path)).unwrap_err().to_string().contains("ca.pem"));
        std::fs::write(&path, "no certificate").unwrap();
        assert!(trusted(Some(&path)).unwrap_err().to_string().contains("there are none"));
    }
}
