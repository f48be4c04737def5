//! Copies of the catalogue in a vault: now and then all of it, and for each version the pages in which it differs from that.
//!
//! | name | holds |
//! |---|---|
//! | `HOST/base.N.TAG.P` | a slice of the catalogue as it was with version N, compressed and encrypted |
//! | `HOST/db.N` | version N: which base, the digest of the whole, and the pages that are not as they are there |
//!
//! Versions that were written before bases are all of the catalogue by themselves. Which pages a base has is known by their digests, which
//! lie beside the catalogue; where they do not, another base is made. Nothing is stored of a catalogue that is damaged, and of the base
//! before the last one a version stays, so that no damage to one base takes them all.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, ErrorKind as IoKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crossbeam_channel::bounded;
use data_encoding::HEXLOWER;
use pc_switcher_contract::{ErrorKind, ModuleError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::settings::VaultSettings;
use crate::catalogue::{Catalogue, Whole};
use crate::error::{Result, at, damaged};
use crate::format::Id;
use crate::format::lock::Origin;
use crate::repo::{Repository, Who};
use crate::store::{Kind, Store};

/// How a version begins that goes with a base; one that does not is compressed by zstd from its first byte on.
const MAGIC: &[u8; 8] = b"pcscat1\n";
/// A base is cut into so many bytes, so that it is never in memory whole.
const SLICE: u64 = if cfg!(test) { 64 << 10 } else { 32 << 20 };
/// How long a catalogue is taken for sound that was found so, in seconds: to look through all of it takes longer than to store a version.
const SOUND: i64 = 24 * 3600;
/// A catalogue that would be larger is no catalogue.
const LARGEST: u64 = 1 << 36;
/// What says where the pages of a version are is shorter.
const LONGEST_HEAD: usize = 4096;
/// Zstandard's level: the default.
const LEVEL: i32 = 0;

/// What tells pages apart.
type PageDigest = [u8; 16];

/// A base, as its slices are called.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Base {
    version: i64,
    /// So that what a run left that was cut off is never taken for a slice of another one.
    tag: String,
    slices: u64,
}

impl Base {
    fn slice(&self, host_id: &str, number: u64) -> String {
        format!("{host_id}/base.{}.{}.{number}", self.version, self.tag)
    }
}

/// What stands before the pages of a version.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    base: Base,
    page_size: u32,
    /// Of the whole catalogue.
    pages: u64,
    /// Of the digests of all pages.
    digest: String,
    /// Programs from before it did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<Author>,
}

/// Who stored a version: what tells this machine and this user from others that have the same id in a vault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Author {
    /// What the machine is called.
    pub hostname: String,
    /// The user, as a number.
    pub uid: u32,
    /// Where the process ran.
    #[serde(flatten)]
    pub origin: Origin,
    /// When, in seconds.
    pub at: i64,
}

impl Author {
    /// Returns whoever this is, at a time in seconds.
    pub fn of(who: &Who, at: i64) -> Self {
        Self { hostname: who.hostname.clone(), uid: who.uid, origin: who.origin.clone(), at }
    }
}

/// What this machine knows of the base that it stored last.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    vault_id: String,
    host_id: String,
    base: Base,
    /// How long each slice is as it lies there.
    sizes: Vec<u64>,
    page_size: u32,
    /// When the catalogue was found sound, in seconds.
    sound_at: i64,
    /// The pages that versions stored since that go with it.
    #[serde(default)]
    spent: u64,
}

impl Stored {
    /// Whether a vault holds all of the base, and none that is newer: that another one wrote who went on from a version of this one.
    fn is_in(&self, there: &BTreeMap<String, u64>) -> bool {
        let is_there = |(number, size)| {
            there.get(&self.base.slice(&self.host_id, number)).is_some_and(|found| found == size)
        };
        let is_newest = there
            .keys()
            .filter_map(|name| base_of(name, &self.host_id))
            .all(|(version, _)| version <= self.base.version);
        self.sizes.len() as u64 == self.base.slices && (0..).zip(&self.sizes).all(is_there) && is_newest
    }
}

/// The digests of all pages of a catalogue.
struct Pages {
    size: u32,
    digests: Vec<PageDigest>,
}

impl Pages {
    /// Reads them from a catalogue that nobody writes to.
    fn of(file: &File, path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| at("read", path, &error);
        let mut head = [0; 18];
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let size = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            size => u32::from(size),
        };
        if size < 512 || !size.is_power_of_two() {
            return Err(damaged(format!("`{}`", path.display()), "its pages have no size"));
        }
        let mut digests = Vec::new();
        let mut reader = BufReader::with_capacity(1 << 20, Whole { file, at: 0 });
        let mut page = vec![0; size as usize];
        loop {
            match reader.read_exact(&mut page) {
                Ok(()) => digests.push(digest_of(&page)),
                Err(error) if error.kind() == IoKind::UnexpectedEof => break,
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(Self { size, digests })
    }

    fn digest(&self) -> String {
        let mut all = Sha256::new();
        self.digests.iter().for_each(|digest| all.update(digest));
        HEXLOWER.encode(&all.finalize())
    }

    /// Returns the numbers of those that are not as they are in a base.
    fn besides(&self, base: &[PageDigest]) -> Vec<u64> {
        (0..)
            .zip(&self.digests)
            .filter(|(at, digest)| base.get(*at as usize) != Some(digest))
            .map(|(at, _)| at)
            .collect()
    }
}

fn digest_of(page: &[u8]) -> PageDigest {
    let mut short = PageDigest::default();
    short.copy_from_slice(&Id::of(page).0[..16]);
    short
}

/// Stores a version of the catalogue in a vault.
///
/// # Errors
/// If the catalogue cannot be read or is damaged, or the version not be stored.
pub fn store(repo: &Repository, catalogue: &Catalogue, place: &Place<'_>, version: i64) -> Result<()> {
    catalogue.while_still(|file, path| {
        let pages = Pages::of(file, path)?;
        let there = repo.store().list(Kind::Meta)?.into_iter().collect();
        let known = place.known(&there).and_then(|(stored, digests)| {
            let (changed, all) = (pages.besides(&digests), pages.digests.len() as u64);
            // What is stored beside a base comes to as much as another one at most, whatever the future brings: twice the least, that is.
            let is_cheap =
                changed.len() as u64 * 2 < all && stored.spent.saturating_add(changed.len() as u64) <= all;
            (stored.page_size == pages.size && is_cheap).then_some((stored, digests, changed))
        });
        let (base, changed, note) = match known {
            Some((mut stored, digests, changed)) => {
                if !(0..SOUND).contains(&(place.now - stored.sound_at)) {
                    catalogue.prove_sound()?;
                    stored.sound_at = place.now;
                }
                stored.spent += changed.len() as u64;
                (stored.base.clone(), changed, Some((stored, digests)))
            }
            None => {
                let sound = || catalogue.prove_sound();
                (place.store_base(repo, (file, path), &pages, version, sound)?, Vec::new(), None)
            }
        };
        let (count, digest) = (pages.digests.len() as u64, pages.digest());
        let by = Some(Author::of(place.who, place.now));
        let head = Head { base, page_size: pages.size, pages: count, digest, by };
        let plain = version_of(&head, file, path, &changed)?;
        let name = format!("{}/db.{version}", place.host_id);
        match repo.store().put(Kind::Meta, &name, &repo.seal(&plain)?)? {
            true => {
                // Where it cannot be noted the next one makes a base of its own: of this one it would not be known what it came to.
                if note.is_some_and(|(stored, digests)| place.write(&stored, &digests).is_err()) {
                    place.forget();
                }
                Ok(())
            }
            false => {
                let message = format!("another machine wrote `{name}`, which has this one's id");
                Err(ModuleError::new(ErrorKind::Invalid, message).hint(
                    "is this machine a copy of another one? `bt recover` takes over what that one stored",
                ))
            }
        }
    })
}

/// Writes what is stored of a version that goes with a base.
fn version_of(head: &Head, file: &File, path: &Path, changed: &[u64]) -> Result<Vec<u8>> {
    let packing =
        |error: std::io::Error| ModuleError::failed(format!("the catalogue is not compressed: {error}"));
    let text = serde_json::to_vec(head).map_err(|error| ModuleError::failed(error.to_string()))?;
    let mut out = MAGIC.to_vec();
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text);
    let mut packer = zstd::Encoder::new(out, LEVEL).map_err(packing)?;
    let mut page = vec![0; head.page_size as usize];
    for number in changed {
        file.read_exact_at(&mut page, number * u64::from(head.page_size))
            .map_err(|error| at("read", path, &error))?;
        packer.write_all(&number.to_le_bytes()).map_err(packing)?;
        packer.write_all(&page).map_err(packing)?;
    }
    packer.finish().map_err(packing)
}

/// Of which machine's catalogue a vault keeps versions, and where this machine notes what it stored.
pub struct Place<'p> {
    /// The machine.
    pub host_id: &'p str,
    /// The vault, as its marker names it.
    pub vault_id: &'p str,
    /// The directory of the vault's state.
    pub state: &'p Path,
    /// The time, in seconds.
    pub now: i64,
    /// Who stores it.
    pub who: &'p Who,
}

impl Place<'_> {
    fn note(&self) -> PathBuf {
        let vault = HEXLOWER.encode(&Id::of(self.vault_id.as_bytes()).0[..8]);
        self.state.join(format!("copied.{vault}"))
    }

    /// Reads what is noted of the base that was stored last.
    fn read(&self) -> Option<(Stored, Vec<PageDigest>)> {
        let bytes = fs::read(self.note()).ok()?;
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let stored: Stored = serde_json::from_slice(&bytes[..end]).ok()?;
        let (digests, rest) = bytes[end + 1..].as_chunks::<16>();
        let is_ours = stored.vault_id == self.vault_id && stored.host_id == self.host_id;
        (is_ours && rest.is_empty()).then(|| (stored, digests.to_vec()))
    }

    /// As it, if that base is there.
    fn known(&self, there: &BTreeMap<String, u64>) -> Option<(Stored, Vec<PageDigest>)> {
        self.read().filter(|(stored, _)| stored.is_in(there))
    }

    /// Whether the base that was stored last is not there any more, so that no version that goes with it can be read.
    ///
    /// # Errors
    /// If the vault cannot be read.
    pub fn lacks_its_base(&self, store: &dyn Store) -> Result<bool> {
        let Some((stored, _)) = self.read() else { return Ok(false) };
        Ok(!stored.is_in(&store.list(Kind::Meta)?.into_iter().collect()))
    }

    /// Has the next version make a base of its own.
    pub fn forget(&self) {
        fs::remove_file(self.note()).ok();
    }

    fn write(&self, stored: &Stored, digests: &[PageDigest]) -> Result<()> {
        let mut note = serde_json::to_vec(stored).map_err(|error| ModuleError::failed(error.to_string()))?;
        note.push(b'\n');
        note.extend(digests.as_flattened());
        let failed = |error: std::io::Error| at("write", &self.note(), &error);
        // What a crash leaves of it is too short or of another base, and another one is made.
        let mut fresh = tempfile::NamedTempFile::new_in(self.state).map_err(failed)?;
        fresh.write_all(&note).and_then(|()| fresh.as_file().sync_all()).map_err(failed)?;
        fresh.persist(self.note()).map(drop).map_err(|error| failed(error.error))
    }

    /// Stores all of the catalogue as a base, if it is sound, and notes that.
    fn store_base(
        &self,
        repo: &Repository,
        (file, path): (&File, &Path),
        pages: &Pages,
        version: i64,
        sound: impl Fn() -> Result<()>,
    ) -> Result<Base> {
        let bytes = pages.digests.len() as u64 * u64::from(pages.size);
        let tag = uuid::Uuid::new_v4().simple().to_string()[..8].to_owned();
        let base = Base { version, tag, slices: bytes.div_ceil(SLICE) };
        let packed_slice = |number: u64| -> Result<Vec<u8>> {
            let whole = Whole { file, at: number * SLICE };
            let packed =
                zstd::encode_all(whole.take(SLICE), LEVEL).map_err(|error| at("read", path, &error))?;
            repo.seal(&packed)
        };
        let (slices, slice) = (base.slices, |number| base.slice(self.host_id, number));
        let tried = Cell::new(0);
        // While one thread packs them, the other one looks whether they are worth it, and stores them.
        let store_slices = || {
            let (send, packed) = bounded(1);
            std::thread::scope(|scope| {
                let packed = packed;
                let pack = &packed_slice;
                scope.spawn(move || (0..slices).try_for_each(|number| send.send(pack(number))));
                sound()?;
                let store = |(number, sealed): (u64, Result<Vec<u8>>)| {
                    let sealed = sealed?;
                    tried.set(number + 1);
                    repo.store().put(Kind::Meta, &slice(number), &sealed)?;
                    Ok(sealed.len() as u64)
                };
                (0..).zip(packed).map(store).collect::<Result<Vec<u64>>>()
            })
        };
        let store_all = || {
            let stored = Stored {
                vault_id: self.vault_id.to_owned(),
                host_id: self.host_id.to_owned(),
                base: base.clone(),
                sizes: store_slices()?,
                page_size: pages.size,
                sound_at: self.now,
                spent: 0,
            };
            self.write(&stored, &pages.digests)
        };
        store_all().inspect_err(|_| {
            // Nobody would go on with them, and where there is no room, here or there, each further try would leave as many.
            for number in 0..tried.get() {
                repo.store().delete(Kind::Meta, &base.slice(self.host_id, number)).ok();
            }
        })?;
        Ok(base)
    }
}

/// Proves that the newest version of a machine's catalogue in a vault can be read and is sound, in a directory for that.
///
/// # Errors
/// If it is not, or the vault cannot be read.
pub fn prove_newest(repo: &Repository, host_id: &str, scratch: &Path) -> Result<()> {
    let Some(newest) = versions(repo.store(), host_id)?.pop() else { return Ok(()) };
    let path = scratch.join("copy.db");
    fetch(repo, host_id, newest, &path)?;
    Catalogue::open(&path)?.prove_sound()
}

/// Writes a version of a machine's catalogue, as it was, to a file.
///
/// # Errors
/// If there is none of this version, it is not as it was written, or the file cannot be written.
pub fn fetch(repo: &Repository, host_id: &str, version: i64, to: &Path) -> Result<()> {
    let what = || format!("the copy `{host_id}/db.{version}` of a catalogue in `{}`", repo.store().place());
    let torn = |why: &str| damaged(what(), why);
    let plain = opened(repo, &format!("{host_id}/db.{version}"))?;
    let failed = |error: std::io::Error| at("write", to, &error);
    let mut out =
        File::options().read(true).write(true).create(true).truncate(true).open(to).map_err(failed)?;
    let Some(rest) = plain.strip_prefix(MAGIC) else {
        return unpack(&plain, LARGEST, &mut out, what, to).map(drop);
    };
    let (head, packed) = head_of(rest).ok_or_else(|| torn("its head is not as it was written"))?;
    let page_size = u64::from(head.page_size);
    let bytes = head.pages.checked_mul(page_size).filter(|bytes| *bytes <= LARGEST && page_size >= 512);
    let bytes = bytes.ok_or_else(|| torn("it is larger than it may be"))?;
    if head.base.slices > LARGEST / SLICE {
        return Err(torn("it is larger than it may be"));
    }
    for number in 0..head.base.slices {
        let slice = opened(repo, &head.base.slice(host_id, number))?;
        unpack(&slice, SLICE, &mut out, what, to)?;
    }
    out.set_len(bytes).map_err(failed)?;
    let mut pages = zstd::Decoder::new(packed).map_err(|_| torn("it cannot be decompressed"))?;
    let (mut number, mut page) = ([0; 8], vec![0; head.page_size as usize]);
    loop {
        match pages.read(&mut number[..1]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => return Err(torn("it cannot be decompressed")),
        }
        pages
            .read_exact(&mut number[1..])
            .and_then(|()| pages.read_exact(&mut page))
            .map_err(|_| torn("it cannot be decompressed"))?;
        let at = u64::from_le_bytes(number);
        if at >= head.pages {
            return Err(torn("it has pages behind its end"));
        }
        out.write_all_at(&page, at * page_size).map_err(failed)?;
    }
    match Pages::of(&out, to)? {
        found if found.digest() == head.digest => Ok(()),
        _ => Err(torn("it is not what was copied")),
    }
}

/// Returns who stored a version of a machine's catalogue, if it says so.
///
/// # Errors
/// If there is none of this version, or it is not as it was written.
pub fn author(repo: &Repository, host_id: &str, version: i64) -> Result<Option<Author>> {
    let plain = opened(repo, &format!("{host_id}/db.{version}"))?;
    Ok(plain.strip_prefix(MAGIC).and_then(head_of).and_then(|(head, _)| head.by))
}

/// Returns what lies in a vault under a name, decrypted.
fn opened(repo: &Repository, name: &str) -> Result<Vec<u8>> {
    let what = || format!("the copy `{name}` of a catalogue in `{}`", repo.store().place());
    let sealed = repo.store().get(Kind::Meta, name)?;
    let sealed = sealed.ok_or_else(|| ModuleError::failed(format!("{} is not there", what())))?;
    repo.unseal(&sealed, what)
}

/// Appends what was compressed to a file.
fn unpack(packed: &[u8], most: u64, out: &mut File, what: impl Fn() -> String, to: &Path) -> Result<u64> {
    let broken = |error: std::io::Error| match error.raw_os_error() {
        Some(_) => at("write", to, &error),
        None => damaged(what(), format!("it cannot be decompressed: {error}")),
    };
    let plain = zstd::Decoder::new(packed).map_err(broken)?;
    let count = std::io::copy(&mut plain.take(most + 1), out).map_err(broken)?;
    if count > most { Err(damaged(what(), "it is larger than it may be")) } else { Ok(count) }
}

/// Returns what stands before the pages, and these.
fn head_of(rest: &[u8]) -> Option<(Head, &[u8])> {
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    let (text, packed) = rest.split_at_checked(length.min(LONGEST_HEAD))?;
    Some((serde_json::from_slice(text).ok()?, packed))
}

/// Removes the oldest versions of a machine's catalogue beyond what is kept, and bases that no version needs any more. The version that
/// was just stored counts, whether the place lists it yet or not.
///
/// # Errors
/// If they cannot be removed.
pub fn drop_old(
    repo: &Repository,
    settings: &VaultSettings,
    host_id: &str,
    stored: Option<i64>,
) -> Result<()> {
    let store = repo.store();
    let names: Vec<String> = store.list(Kind::Meta)?.into_iter().map(|(name, _)| name).collect();
    let mut bases: BTreeMap<(i64, String), Vec<&String>> = BTreeMap::new();
    for name in &names {
        if let Some(base) = base_of(name, host_id) {
            bases.entry(base).or_default().push(name);
        }
    }
    let mut all: BTreeSet<i64> = versions_in(names.iter(), host_id).into_iter().collect();
    all.extend(stored);
    // By the numbers each goes with the last base before it.
    let base_of = |version: i64| bases.keys().rfind(|(base, _)| *base <= version);
    let mut kept: BTreeSet<i64> =
        all.iter().rev().take(settings.keep_metadata_versions.max(1)).copied().collect();
    // A version of the base before the last one stays.
    let newest = kept.last().and_then(|newest| base_of(*newest)).map_or(0, |(version, _)| *version);
    if kept.first().is_some_and(|first| *first >= newest) {
        kept.extend(all.range(..newest).next_back());
    }
    // So do those that made their bases: they have no pages of their own, and were found sound.
    let first_of = |version: &i64| Some(base_of(*version)?.0).filter(|version| all.contains(version));
    let makers: Vec<i64> = kept.iter().filter_map(first_of).collect();
    kept.extend(makers);
    for version in all.difference(&kept) {
        store.delete(Kind::Meta, &format!("{host_id}/db.{version}"))?;
    }
    let likely: BTreeSet<_> = kept.iter().filter_map(|version| base_of(*version)).collect();
    if likely.len() == bases.len() {
        return Ok(());
    }
    let mut needed = BTreeSet::new();
    for version in kept {
        // What cannot be read may need any of them.
        let Ok(plain) = opened(repo, &format!("{host_id}/db.{version}")) else { return Ok(()) };
        let Some(rest) = plain.strip_prefix(MAGIC) else { continue };
        let Some((Head { base, .. }, _)) = head_of(rest) else { return Ok(()) };
        needed.insert((base.version, base.tag));
    }
    for name in bases.iter().filter(|(base, _)| !needed.contains(*base)).flat_map(|(_, names)| names) {
        store.delete(Kind::Meta, name)?;
    }
    Ok(())
}

/// Returns which base of a machine a name is a slice of.
fn base_of(name: &str, host_id: &str) -> Option<(i64, String)> {
    let mut words = name.strip_prefix(host_id)?.strip_prefix("/base.")?.split('.');
    Some((words.next()?.parse().ok()?, words.next()?.to_owned()))
}

/// Returns the machines of which a vault holds copies of the catalogue.
///
/// # Errors
/// If the vault cannot be read.
pub fn hosts(store: &dyn Store) -> Result<BTreeSet<String>> {
    let names = store.list(Kind::Meta)?;
    let host = |(name, _): &(String, u64)| {
        let (host, file) = name.split_once('/')?;
        file.starts_with("db.").then(|| host.to_owned())
    };
    Ok(names.iter().filter_map(host).collect())
}

/// Returns the versions of a machine's catalogue that a vault holds, the oldest first.
///
/// # Errors
/// If the vault cannot be read.
pub fn versions(store: &dyn Store, host_id: &str) -> Result<Vec<i64>> {
    let names = store.list(Kind::Meta)?;
    Ok(versions_in(names.iter().map(|(name, _)| name), host_id))
}

fn versions_in<'n>(names: impl Iterator<Item = &'n String>, host_id: &str) -> Vec<i64> {
    let own = format!("{host_id}/db.");
    let mut versions: Vec<i64> = names.filter_map(|name| name.strip_prefix(&own)?.parse().ok()).collect();
    versions.sort_unstable();
    versions
}

#[cfg(test)]
#[path = "copies_tests.rs"]
mod tests;
