//! Key slots: the master key, encrypted with what a passphrase yields.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::crypto::Key;

/// How dear one guess of a passphrase is: scrypt's `N` as a power of two, with r = 8 and p = 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost(u8);

impl Cost {
    /// 64 MiB and some tenths of a second.
    pub const NORMAL: Cost = Cost(16);
    /// Next to nothing: for tests.
    pub const TINY: Cost = Cost(4);
}

/// The most memory that a key file of others may ask for, in bytes.
const MOST_MEMORY: u64 = 1 << 30;
/// The most work, as N·r·p: some minutes. restic measures what a machine can do, so any split between N and p is seen.
const MOST_WORK: u64 = 1 << 28;

/// A key file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyFile {
    created: String,
    username: String,
    hostname: String,
    kdf: String,
    #[serde(rename = "N")]
    n: u64,
    r: u32,
    p: u32,
    salt: String,
    data: String,
}

/// Who makes a key file and when: shown by `restic key list`.
#[derive(Debug, Clone)]
pub struct Maker<'a> {
    /// The machine.
    pub hostname: &'a str,
    /// The user.
    pub username: &'a str,
    /// RFC 3339.
    pub created: String,
}

impl KeyFile {
    /// Locks `master` with a passphrase.
    ///
    /// # Errors
    /// If the system has no random numbers, or no memory for the derivation.
    pub fn lock(master: &Key, passphrase: &[u8], cost: Cost, maker: &Maker<'_>) -> Result<Self, String> {
        let mut salt = [0; 64];
        getrandom::fill(&mut salt).map_err(|error| error.to_string())?;
        let slot = derive(passphrase, &salt, cost.0, 8, 1)?;
        let data = slot.seal(&master.to_json()).map_err(|error| error.to_string())?;
        Ok(Self {
            created: maker.created.clone(),
            username: maker.username.into(),
            hostname: maker.hostname.into(),
            kdf: "scrypt".into(),
            n: 1 << cost.0,
            r: 8,
            p: 1,
            salt: BASE64.encode(&salt),
            data: BASE64.encode(&data),
        })
    }

    /// Opens the slot; `None` if the passphrase is another one.
    ///
    /// # Errors
    /// If the file asks for a derivation that is not scrypt, or for absurdly much memory.
    pub fn unlock(&self, passphrase: &[u8]) -> Result<Option<Key>, String> {
        if self.kdf != "scrypt" {
            return Err(format!("the key derivation `{}` is not known", self.kdf));
        }
        let memory = self.n.checked_mul(u64::from(self.r)).and_then(|blocks| blocks.checked_mul(128));
        let work = memory.and_then(|memory| (memory / 128).checked_mul(u64::from(self.p)));
        let too_much =
            memory.is_none_or(|memory| memory > MOST_MEMORY) || work.is_none_or(|work| work > MOST_WORK);
        if !self.n.is_power_of_two() || too_much {
            return Err(format!("scrypt with N={}, r={}, p={} is refused", self.n, self.r, self.p));
        }
        let decode = |text: &str| BASE64.decode(text.as_bytes()).map_err(|error| error.to_string());
        let log_n = u8::try_from(self.n.trailing_zeros()).unwrap_or(u8::MAX);
        let slot = derive(passphrase, &decode(&self.salt)?, log_n, self.r, self.p)?;
        match slot.open(&decode(&self.data)?) {
            Ok(json) => {
                Key::from_json(&json).map(Some).ok_or_else(|| "its master key is not readable".into())
            }
            Err(_) => Ok(None),
        }
    }
}

fn derive(passphrase: &[u8], salt: &[u8], log_n: u8, r: u32, p: u32) -> Result<Key, String> {
    let params = scrypt::Params::new(log_n, r, p).map_err(|error| error.to_string())?;
    let mut bytes = [0; 64];
    scrypt::scrypt(passphrase, salt, &params, &mut bytes).map_err(|error| error.to_string())?;
    Ok(Key::from_bytes(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_passphrase_opens_and_another_does_not() {
        let maker = Maker { hostname: "laptop", username: "alice", created: "2026-01-02T03:04:05Z".into() };
        let master = Key::random().unwrap();
        let mut slot = KeyFile::lock(&master, b"secret", Cost::TINY, &maker).unwrap();
        assert!(slot.unlock(b"secret").unwrap() == Some(master));
        assert!(slot.unlock(b"Secret").unwrap().is_none());
        for (n, p) in [(1 << 40, 1), (1 << 4, u32::MAX), (12, 1)] {
            (slot.n, slot.p) = (n, p);
            assert!(slot.unlock(b"secret").unwrap_err().contains("is refused"), "{n} {p}");
        }
    }
}
