//! AES-256 in counter mode, authenticated with Poly1305-AES: `IV ‖ ciphertext ‖ MAC`.

use aes::cipher::{Array, BlockCipherEncrypt, KeyInit, KeyIvInit, StreamCipher};
use aes::{Aes128, Aes256};
use data_encoding::BASE64;
use poly1305::Poly1305;
use serde::{Deserialize, Serialize};

type Ctr = ctr::Ctr128BE<Aes256>;

const IV: usize = 16;
const MAC: usize = 16;

/// What encryption adds to each piece, in bytes.
pub const OVERHEAD: usize = IV + MAC;

/// Why something could not be opened: it is cut short, was changed, or the key is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAuthentic;

/// A key for content and one for its authenticity.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

#[derive(Serialize, Deserialize)]
struct Wire {
    mac: WireMac,
    encrypt: String,
}

#[derive(Serialize, Deserialize)]
struct WireMac {
    k: String,
    r: String,
}

impl Key {
    /// Takes 64 bytes, as a key derivation yields them.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let (mut encrypt, mut mac_k, mut mac_r) = ([0; 32], [0; 16], [0; 16]);
        encrypt.copy_from_slice(&bytes[..32]);
        mac_k.copy_from_slice(&bytes[32..48]);
        mac_r.copy_from_slice(&bytes[48..]);
        Self { encrypt, mac_k, mac_r }
    }

    /// Makes a random key.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Encrypts `plain` and appends it to `out`.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn seal_into(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), getrandom::Error> {
        let mut iv = [0; IV];
        getrandom::fill(&mut iv)?;
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(&iv);
        let start = out.len();
        out.extend_from_slice(plain);
        Ctr::new(&Array(self.encrypt), &Array(iv)).apply_keystream(&mut out[start..]);
        let mac = self.mac(&iv, &out[start..]);
        out.extend_from_slice(&mac);
        Ok(())
    }

    /// Encrypts `plain`.
    ///
    /// # Errors
    /// As [`Key::seal_into`].
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, getrandom::Error> {
        let mut out = Vec::new();
        self.seal_into(plain, &mut out)?;
        Ok(out)
    }

    /// Decrypts what was sealed with this key.
    ///
    /// # Errors
    /// If one bit of it is not as it was.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, NotAuthentic> {
        let (iv, rest) = sealed.split_first_chunk::<IV>().ok_or(NotAuthentic)?;
        let (body, mac) = rest.split_last_chunk::<MAC>().ok_or(NotAuthentic)?;
        let differs = self.mac(iv, body).iter().zip(mac).fold(0, |all, (a, b)| all | (a ^ b));
        if differs != 0 {
            return Err(NotAuthentic);
        }
        let mut plain = body.to_vec();
        Ctr::new(&Array(self.encrypt), &Array(*iv)).apply_keystream(&mut plain);
        Ok(plain)
    }

    fn mac(&self, iv: &[u8; IV], body: &[u8]) -> [u8; MAC] {
        let mut nonce = Array(*iv);
        Aes128::new(&Array(self.mac_k)).encrypt_block(&mut nonce);
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.mac_r);
        key[16..].copy_from_slice(&nonce);
        Poly1305::new(&Array(key)).compute_unpadded(body).into()
    }

    /// Returns the key as the JSON document of a key file.
    pub fn to_json(&self) -> Vec<u8> {
        let mac = WireMac { k: BASE64.encode(&self.mac_k), r: BASE64.encode(&self.mac_r) };
        let wire = Wire { mac, encrypt: BASE64.encode(&self.encrypt) };
        serde_json::to_vec(&wire).unwrap_or_default()
    }

    /// Reads the JSON document of a key file.
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let wire: Wire = serde_json::from_slice(json).ok()?;
        let decode = |text: &str| BASE64.decode(text.as_bytes()).ok();
        Some(Self {
            encrypt: decode(&wire.encrypt)?.try_into().ok()?,
            mac_k: decode(&wire.mac.k)?.try_into().ok()?,
            mac_r: decode(&wire.mac.r)?.try_into().ok()?,
        })
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_and_every_flipped_bit_is_noticed() {
        let key = Key::random().unwrap();
        for length in [0, 1, 15, 16, 17, 1000] {
            let plain = vec![7; length];
            let mut sealed = key.seal(&plain).unwrap();
            assert_eq!(sealed.len(), length + OVERHEAD);
            assert_eq!(key.open(&sealed).unwrap(), plain);
            for at in [0, 15, 16, sealed.len() - 1] {
                sealed[at] ^= 1;
                assert_eq!(key.open(&sealed), Err(NotAuthentic));
                sealed[at] ^= 1;
            }
        }
        assert_eq!(key.open(&[0; 31]), Err(NotAuthentic));
    }

    #[test]
    fn a_key_survives_its_json() {
        let key = Key::random().unwrap();
        assert!(Key::from_json(&key.to_json()).unwrap() == key);
        assert!(Key::from_json(b"{\"mac\":{\"k\":\"\",\"r\":\"\"},\"encrypt\":\"\"}").is_none());
    }
}
