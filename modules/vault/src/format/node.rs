//! One entry of a tree: what it is called, what it is, and all that is known of it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use data_encoding::BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::id::Id;
use super::quote::{quote, unquote};

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it")]
pub enum NodeKind {
    File,
    Dir,
    Symlink,
    Dev,
    CharDev,
    Fifo,
    Socket,
    /// Something that a later writer knows.
    #[serde(other)]
    Unknown,
}

/// One extended attribute; ACLs are among them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "XattrWire", try_from = "XattrWire")]
pub struct Xattr {
    /// For example `user.comment`.
    pub name: OsString,
    /// Its bytes.
    pub value: Vec<u8>,
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Without slashes.
    #[serde(serialize_with = "name_out", deserialize_with = "name_in")]
    pub name: OsString,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: NodeKind,
    /// Rights and kind, in the bits of Go.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub mode: u32,
    /// When its content changed.
    #[serde(with = "time", default)]
    pub mtime: Timestamp,
    /// When it was read.
    #[serde(with = "time", default)]
    pub atime: Timestamp,
    /// When anything of it changed.
    #[serde(with = "time", default)]
    pub ctime: Timestamp,
    /// Its owner.
    #[serde(default)]
    pub uid: u32,
    /// Its group.
    #[serde(default)]
    pub gid: u32,
    /// The owner's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The group's name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its number in the file system.
    #[serde(default, skip_serializing_if = "is_none")]
    pub inode: u64,
    /// The file system; kept where names can share an inode.
    #[serde(default, skip_serializing_if = "is_none")]
    pub device_id: u64,
    /// Bytes of content.
    #[serde(default, skip_serializing_if = "is_none")]
    pub size: u64,
    /// Names of this inode.
    #[serde(default, skip_serializing_if = "is_none")]
    pub links: u64,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub linktarget: String,
    /// The same as base64, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linktarget_raw: Option<String>,
    /// Extended attributes.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "xattrs_in")]
    pub extended_attributes: Vec<Xattr>,
    /// The number of a device.
    #[serde(default, skip_serializing_if = "is_none")]
    pub device: u64,
    /// The chunks of a file, in order.
    #[serde(default)]
    pub content: Option<Vec<Id>>,
    /// The tree of a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subtree: Option<Id>,
}

impl Node {
    /// Makes an entry of which nothing but name and kind is known.
    pub fn new(name: OsString, kind: NodeKind) -> Self {
        Self {
            name,
            kind,
            mode: 0,
            mtime: Timestamp::UNIX_EPOCH,
            atime: Timestamp::UNIX_EPOCH,
            ctime: Timestamp::UNIX_EPOCH,
            uid: 0,
            gid: 0,
            user: String::new(),
            group: String::new(),
            inode: 0,
            device_id: 0,
            size: 0,
            links: 0,
            linktarget: String::new(),
            linktarget_raw: None,
            extended_attributes: Vec::new(),
            device: 0,
            content: None,
            subtree: None,
        }
    }

    /// Returns where a symbolic link points.
    pub fn target(&self) -> OsString {
        let raw = self.linktarget_raw.as_ref().and_then(|raw| BASE64.decode(raw.as_bytes()).ok());
        raw.map_or_else(|| self.linktarget.clone().into(), OsString::from_vec)
    }

    /// Sets where a symbolic link points.
    pub fn set_target(&mut self, target: &[u8]) {
        self.linktarget = String::from_utf8_lossy(target).into_owned();
        let clean = self.linktarget.as_bytes() == target;
        self.linktarget_raw = (!clean).then(|| BASE64.encode(target));
    }

    /// Returns the rights, with set-id and sticky bits, as Unix counts them.
    pub fn permissions(&self) -> u32 {
        let special = [(GO_SETUID, 0o4000), (GO_SETGID, 0o2000), (GO_STICKY, 0o1000)];
        let special = special.iter().filter(|(go, _)| self.mode & go != 0).map(|(_, unix)| unix);
        self.mode & 0o777 | special.sum::<u32>()
    }
}

const GO_SETUID: u32 = 1 << 23;
const GO_SETGID: u32 = 1 << 22;
const GO_STICKY: u32 = 1 << 20;

/// Returns the mode of `stat` in the bits of Go.
pub fn go_mode(kind: NodeKind, unix: u32) -> u32 {
    let kind = match kind {
        NodeKind::Dir => 1 << 31,
        NodeKind::Symlink => 1 << 27,
        NodeKind::Dev => 1 << 26,
        NodeKind::CharDev => 1 << 26 | 1 << 21,
        NodeKind::Fifo => 1 << 25,
        NodeKind::Socket => 1 << 24,
        NodeKind::File | NodeKind::Unknown => 0,
    };
    let special = [(0o4000, GO_SETUID), (0o2000, GO_SETGID), (0o1000, GO_STICKY)];
    let special = special.iter().filter(|(bit, _)| unix & bit != 0).map(|(_, go)| go);
    kind | unix & 0o777 | special.sum::<u32>()
}

/// Returns a time of `stat`; years that the format cannot say become the nearest that it can.
pub fn timestamp(seconds: i64, nanoseconds: i64) -> Timestamp {
    // 0000-01-01 and 9999-12-30: what RFC 3339 can say in any zone.
    let seconds = seconds.clamp(-62_167_219_200, 253_402_127_999);
    Timestamp::new(seconds, nanoseconds.clamp(0, 999_999_999) as i32).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn is_none(value: &u64) -> bool {
    *value == 0
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

fn name_out<S: Serializer>(name: &OsString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&quote(name.as_bytes()))
}

fn name_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<OsString, D::Error> {
    let text = String::deserialize(deserializer)?;
    let name =
        unquote(&text).ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no quoted name")))?;
    Ok(OsString::from_vec(name))
}

/// Times, leniently: one that cannot be read must not cost the file.
mod time {
    use super::*;

    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(at)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        Ok(String::deserialize(deserializer)?.parse().unwrap_or(Timestamp::UNIX_EPOCH))
    }
}

#[derive(Serialize, Deserialize)]
struct XattrWire {
    name: String,
    value: Option<String>,
}

impl From<Xattr> for XattrWire {
    fn from(xattr: Xattr) -> Self {
        Self { name: xattr.name.to_string_lossy().into_owned(), value: Some(BASE64.encode(&xattr.value)) }
    }
}

impl TryFrom<XattrWire> for Xattr {
    type Error = data_encoding::DecodeError;

    fn try_from(wire: XattrWire) -> Result<Self, Self::Error> {
        let value = BASE64.decode(wire.value.unwrap_or_default().as_bytes())?;
        Ok(Self { name: wire.name.into(), value })
    }
}

fn xattrs_in<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Xattr>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
