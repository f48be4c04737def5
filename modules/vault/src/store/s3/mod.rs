//! A store in a bucket of Amazon's S3 or of a server that speaks the same: the names are those that restic gives them.
//!
//! Nothing is deleted but what [`Store::delete`] is asked for. Why it is built so: `docs/adr/0017-*.md`.

mod answer;
mod client;
mod credentials;
mod place;
mod sign;
#[cfg(test)]
mod tests;
mod thaw;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use pc_switcher_contract::{Clock, ModuleError};

use self::answer::{Answer, Page, Verdict, Wrong};
use self::client::{Client, Line, Request, trusted};
use self::thaw::Cold;
use super::{Fetching, Kind, Stop, Store, Thaw};
use crate::error::Result;

pub use client::Retries;
pub use credentials::{Credentials, CredentialsFrom};
pub use place::{Endpoint, Location};

/// How many names are asked for at once.
const PAGE: u32 = 1000;

/// A bucket and who we are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Where it is.
    pub place: Location,
    /// Who we are.
    pub credentials: Credentials,
}

/// What a store is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    /// The repository.
    pub content: Bucket,
    /// What machines keep of their own beside it.
    pub metadata: Bucket,
    /// The region; told by the server's name, or the usual one, unless it is given.
    pub region: Option<String>,
    /// Whether the bucket is a part of the path and not of the server's name; as servers want it, unless it is given.
    pub path_style: Option<bool>,
    /// Where packs with contents of files are put; everything else must be read often.
    pub storage_class: Option<String>,
    /// Certificates that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Keeps objects in buckets.
pub struct S3Store {
    content: Client,
    metadata: Client,
    storage_class: Option<String>,
    /// Set once the server turned out not to know conditions.
    knows_no_conditions: AtomicBool,
    cold: Cold,
}

impl S3Store {
    /// Takes the buckets as they are; asks no server anything.
    ///
    /// # Errors
    /// If the certificates cannot be read.
    pub fn at(options: S3Options, clock: Clock, stop: Stop, retries: Retries) -> Result<Self> {
        let S3Options { content, metadata, region, path_style, storage_class, ca_file } = options;
        let roots = trusted(ca_file.as_deref())?;
        let client = |bucket: Bucket| {
            let endpoint = &bucket.place.endpoint;
            // A certificate for one level of names does not fit a bucket with dots.
            let usual = !endpoint.is_amazon() || bucket.place.bucket.contains('.');
            let line = Line {
                region: region.clone().unwrap_or_else(|| endpoint.region()),
                path_style: path_style.unwrap_or(usual),
                clock: clock.clone(),
                stop: stop.clone(),
                retries: retries.clone(),
                roots: roots.clone(),
            };
            Client::new(bucket.place, line, bucket.credentials)
        };
        let (content, metadata) = (client(content), client(metadata));
        let (knows_no_conditions, cold) = Default::default();
        Ok(Self { content, metadata, storage_class, knows_no_conditions, cold })
    }

    fn client(&self, kind: Kind) -> &Client {
        if kind == Kind::Meta { &self.metadata } else { &self.content }
    }

    fn key(&self, kind: Kind, name: &str) -> String {
        self.client(kind).place().key(&format!("{}{name}", directory(kind, name)))
    }

    fn has(&self, kind: Kind, name: &str) -> Result<bool> {
        let (client, key) = (self.client(kind), self.key(kind, name));
        let (answer, _) = client.call(&Request { method: "HEAD", key: &key, ..Request::default() })?;
        match answer.verdict() {
            Verdict::Good => Ok(true),
            // Who may not list is not told what is missing; what is written then is not written over anything.
            Verdict::Missing | Verdict::Wrong(Wrong::Forbidden) => Ok(false),
            _ => Err(client.explain(&format!("look for the {} `{key}`", kind.noun()), &answer)),
        }
    }

    fn send(
        &self,
        (kind, name): (Kind, &str),
        bytes: &[u8],
        class: Option<&String>,
        is_conditional: bool,
    ) -> Result<(Answer, bool)> {
        let key = self.key(kind, name);
        let mut headers = Vec::new();
        if is_conditional {
            headers.push(("if-none-match", "*".to_owned()));
        }
        headers.extend(class.map(|class| ("x-amz-storage-class", class.clone())));
        // What ends a run that was stopped, its index and its lock, is written all the same.
        let is_stopped = kind == Kind::Pack;
        let request =
            Request { method: "PUT", key: &key, headers, body: bytes, is_stopped, ..Request::default() };
        self.client(kind).call(&request)
    }

    fn page(&self, kind: Kind, prefix: &str, most: u32, token: Option<String>) -> Result<Page> {
        let client = self.client(kind);
        let mut query = vec![
            ("list-type", "2".to_owned()),
            ("max-keys", most.to_string()),
            ("prefix", prefix.to_owned()),
        ];
        query.extend(token.map(|token| ("continuation-token", token)));
        let what = || format!("list `{prefix}`");
        let (answer, _) =
            client.call(&Request { method: "GET", query, is_stopped: true, ..Request::default() })?;
        match answer.verdict() {
            Verdict::Good => Page::read(&answer).ok_or_else(|| {
                let place = client.place();
                ModuleError::failed(format!(
                    "cannot {}: `{}` answers with something else",
                    what(),
                    place.endpoint
                ))
                .hint("is the endpoint one that speaks S3?")
            }),
            _ => Err(client.explain(&what(), &answer)),
        }
    }

    /// Returns all names below a prefix of a bucket, without the prefix, with their sizes.
    fn names(&self, kind: Kind, prefix: &str) -> Result<Vec<(String, u64)>> {
        let (mut found, mut token) = (Vec::new(), None);
        loop {
            let page = self.page(kind, prefix, PAGE, token.take())?;
            let below = page.contents.into_iter();
            found.extend(
                below.filter_map(|entry| Some((entry.key.strip_prefix(prefix)?.to_owned(), entry.size))),
            );
            token = page.next_continuation_token.filter(|token| page.is_truncated && !token.is_empty());
            match (&token, page.is_truncated) {
                (None, true) => {
                    let place = self.client(kind).place();
                    let message =
                        format!("`{}` lists only a part of `{prefix}`, and not how to go on", place.endpoint);
                    return Err(ModuleError::failed(message));
                }
                (None, false) => return Ok(found),
                (Some(_), _) => {}
            }
        }
    }

    /// Asks for what an object holds; what is known to be cold is not asked for.
    fn read(&self, client: &Client, request: &Request<'_>) -> Result<Answer> {
        if self.cold.holds_back(request.key) {
            return Ok(Cold::answer());
        }
        let (answer, _) = client.call(request)?;
        self.cold.learn(request.key, &answer);
        Ok(answer)
    }

    /// Whether what is there under a name is what was to be written: an answer may be lost though the work was done.
    fn is_the_same(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        Ok(self.get(kind, name)?.is_some_and(|there| there == bytes))
    }
}

/// Returns what stands before the name of an object, as restic has it.
fn directory(kind: Kind, name: &str) -> String {
    match kind {
        Kind::Config => "config".into(),
        Kind::Marker => "pc-switcher-vault".into(),
        Kind::Key => "keys/".into(),
        Kind::Lock => "locks/".into(),
        Kind::Index => "index/".into(),
        Kind::Snapshot => "snapshots/".into(),
        Kind::Pack if name.is_empty() => "data/".into(),
        Kind::Pack => format!("data/{}/", name.get(..2).unwrap_or(name)),
        Kind::Meta => "pc-switcher/hosts/".into(),
    }
}

/// Whether a name is made from what it names: it can only be overwritten with the same.
fn is_named_by_content(kind: Kind) -> bool {
    !matches!(kind, Kind::Config | Kind::Marker | Kind::Meta)
}

impl S3Store {
    fn put_in(&self, kind: Kind, name: &str, bytes: &[u8], class: Option<&String>) -> Result<bool> {
        // Not every server heeds a condition, or says that it does not.
        if !is_named_by_content(kind) && self.has(kind, name)? {
            return Ok(false);
        }
        let what = || format!("write the {} `{}`", kind.noun(), self.key(kind, name));
        let client = self.client(kind);
        if !self.knows_no_conditions.load(Ordering::Relaxed) {
            let (answer, is_doubtful) = self.send((kind, name), bytes, class, true)?;
            match answer.verdict() {
                Verdict::Good => return Ok(true),
                Verdict::Exists => return Ok(is_doubtful && self.is_the_same(kind, name, bytes)?),
                Verdict::Unsupported => {}
                _ => return Err(client.explain(&what(), &answer)),
            }
        }
        if is_named_by_content(kind) && self.has(kind, name)? {
            return Ok(false);
        }
        let (answer, _) = self.send((kind, name), bytes, class, false)?;
        match answer.verdict() {
            Verdict::Good => {
                self.knows_no_conditions.store(true, Ordering::Relaxed);
                Ok(true)
            }
            _ => Err(client.explain(&what(), &answer)),
        }
    }
}

impl Store for S3Store {
    fn put(&self, kind: Kind, name: &str, bytes: &[u8]) -> Result<bool> {
        let class = self.storage_class.as_ref().filter(|_| kind == Kind::Pack);
        self.put_in(kind, name, bytes, class)
    }

    fn put_trees(&self, name: &str, bytes: &[u8]) -> Result<bool> {
        self.put_in(Kind::Pack, name, bytes, None)
    }

    fn get(&self, kind: Kind, name: &str) -> Result<Option<Vec<u8>>> {
        let (client, key) = (self.client(kind), self.key(kind, name));
        let answer =
            self.read(client, &Request { method: "GET", key: &key, is_stopped: true, ..Request::default() })?;
        match answer.verdict() {
            Verdict::Good => Ok(Some(answer.body)),
            Verdict::Missing => Ok(None),
            _ => Err(client.explain(&format!("read the {} `{key}`", kind.noun()), &answer)),
        }
    }

    fn get_range(&self, kind: Kind, name: &str, offset: u64, length: usize) -> Result<Vec<u8>> {
        let (client, key) = (self.client(kind), self.key(kind, name));
        let end = offset.saturating_add(length as u64);
        if length == 0 {
            return Ok(Vec::new());
        }
        let headers = vec![("range", format!("bytes={offset}-{}", end - 1))];
        let request = Request { method: "GET", key: &key, headers, is_stopped: true, ..Request::default() };
        let answer = self.read(client, &request)?;
        let short = || ModuleError::failed(format!("the {} `{key}` is cut short", kind.noun()));
        match (answer.status, answer.verdict()) {
            (206, _) if answer.body.len() == length => Ok(answer.body),
            // Who does not know ranges sends everything.
            (200, _) => {
                let part =
                    usize::try_from(offset).ok().and_then(|start| answer.body.get(start..start + length));
                part.map(<[u8]>::to_vec).ok_or_else(short)
            }
            (206 | 416, _) => Err(short()),
            _ => Err(client.explain(&format!("read the {} `{key}`", kind.noun()), &answer)),
        }
    }

    fn list(&self, kind: Kind) -> Result<Vec<(String, u64)>> {
        let prefix = self.key(kind, "");
        let mut found = self.names(kind, &prefix)?;
        match kind {
            Kind::Meta => found.retain(|(name, _)| name.split('/').count() == 2),
            Kind::Lock => found.retain(|(name, _)| !name.is_empty() && !name.contains('/')),
            _ => {
                for (name, _) in &mut found {
                    *name = name.rsplit('/').next().unwrap_or_default().to_owned();
                }
                found.retain(|(name, _)| name.len() == 64);
            }
        }
        found.sort();
        Ok(found)
    }

    fn delete(&self, kind: Kind, name: &str) -> Result<()> {
        let (client, key) = (self.client(kind), self.key(kind, name));
        let (answer, _) = client.call(&Request { method: "DELETE", key: &key, ..Request::default() })?;
        match answer.verdict() {
            Verdict::Good | Verdict::Missing => Ok(()),
            _ => Err(client.explain(&format!("remove the {} `{key}`", kind.noun()), &answer)),
        }
    }

    fn place(&self) -> String {
        self.content.place().to_string()
    }

    fn is_vacant(&self) -> Result<bool> {
        let prefix = self.content.place().key("");
        let keys = self.content.place().key("keys/");
        // Keys without a repository are what an `init` left that was cut off; few try so often.
        let page = self.page(Kind::Config, &prefix, 100, None)?;
        Ok(page.contents.iter().all(|entry| entry.key.starts_with(&keys)))
    }

    fn make_ready(&self) -> Result<()> {
        // Nothing is made; but a bucket that is not there is known before the first object is written.
        self.page(Kind::Meta, &self.metadata.place().key("pc-switcher/"), 1, None).map(drop)
    }

    fn removes_freely(&self) -> bool {
        false
    }

    fn has_cold(&self) -> bool {
        self.cold.has_any()
    }

    fn is_cold(&self, kind: Kind, name: &str) -> bool {
        self.cold.has(&self.key(kind, name))
    }

    fn thaw(&self, kind: Kind, name: &str, order: Thaw) -> Result<Fetching> {
        let key = self.key(kind, name);
        self.cold.thaw(self.client(kind), &key, &format!("the {} `{key}`", kind.noun()), order)
    }
}
