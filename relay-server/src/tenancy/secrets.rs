//! Providers' secrets at rest: encrypted and authenticated, bound to the place they belong to, so
//! that a ciphertext moved to another tenant, resource or field does not open.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use protocol::id::TenantId;
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest,
    rand::{SecureRandom as _, SystemRandom},
};
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// The longest key file that is read, in bytes.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// Keys of one file: the one that seals, and those it took over from.
const KEYS_MAX: usize = 16;

/// The version of the encrypted form.
const VERSION: &str = "v1";

/// Where a secret belongs; authenticated with it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Whose it is.
    pub tenant: TenantId,
    /// The 128 bits of the id of the resource that holds it.
    pub resource: u128,
    /// What it is of that resource.
    pub field: &'a str,
}

impl Place<'_> {
    fn to_aad(self) -> Aad<Vec<u8>> {
        let mut bytes = Vec::with_capacity(32 + self.field.len());
        bytes.extend_from_slice(&self.tenant.as_u128().to_be_bytes());
        bytes.extend_from_slice(&self.resource.to_be_bytes());
        bytes.extend_from_slice(self.field.as_bytes());
        Aad::from(bytes)
    }
}

/// An encrypted secret as text: version, key id, nonce and ciphertext.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed(String);

impl Sealed {
    /// The text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a stored text; whether it opens shows when it is opened.
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The id of the key that it was sealed with; `None` if it has not the form this version writes.
    pub fn key_id(&self) -> Option<&str> {
        let mut parts = self.0.splitn(3, ':');
        let is_known = parts.next() == Some(VERSION);
        parts.next().filter(|_| is_known)
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealed(..)")
    }
}

/// Why a sealed secret did not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Not the form this version writes.
    #[error("the stored secret is not in a form this version knows")]
    Malformed,
    /// Sealed with a key that is not here.
    #[error("the stored secret was sealed with key {0}, which is none of the relay's keys")]
    OtherKey(String),
    /// Changed, or moved from another place.
    #[error("the stored secret was changed or belongs to another resource")]
    Tampered,
}

/// The operating system gives no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random numbers")]
pub struct NoRandomness;

/// The key that seals secrets, and older ones that still open what they sealed.
pub struct SecretKey {
    newest: Generation,
    older: Vec<Generation>,
}

/// One key.
struct Generation {
    id: String,
    key: LessSafeKey,
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey")
            .field("ids", &self.ids().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl Generation {
    fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        let unbound = UnboundKey::new(&AES_256_GCM, bytes)
            .unwrap_or_else(|_| unreachable!("AES-256 takes any {KEY_BYTES} bytes"));
        let mut named = Zeroizing::new(b"hookferry key id".to_vec());
        named.extend_from_slice(bytes);
        let digest = digest::digest(&digest::SHA256, &named);
        Self {
            id: hex::encode(&digest.as_ref()[..4]),
            key: LessSafeKey::new(unbound),
        }
    }
}

impl SecretKey {
    /// Uses 32 bytes as the only key.
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Self {
        Self {
            newest: Generation::from_bytes(bytes),
            older: Vec::new(),
        }
    }

    /// Reads keys as text: 64 hex digits each, a line each, the one that seals first. `None` if it is
    /// anything else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let mut keys = lines.filter(|line| !line.is_empty()).map(|line| {
            let mut bytes = Zeroizing::new([0; KEY_BYTES]);
            hex::decode_to_slice(line, &mut *bytes).ok()?;
            Some(Generation::from_bytes(&bytes))
        });
        let newest = keys.next()??;
        let older: Vec<_> = keys.collect::<Option<_>>()?;
        (older.len() < KEYS_MAX).then_some(Self { newest, older })
    }

    /// Reads the keys from their file; see [`SecretKey::parse`].
    ///
    /// # Errors
    ///
    /// [`KeyError`] says what to do about the file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = read_private(path)?;
        Self::parse(&text).ok_or_else(|| KeyError::Malformed(path.to_owned()))
    }

    /// The name of the key that seals: a digest, which tells nothing of the key.
    pub fn id(&self) -> &str {
        &self.newest.id
    }

    /// The names of all keys, the one that seals first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        let older = self.older.iter().map(|key| key.id.as_str());
        std::iter::once(self.id()).chain(older)
    }

    /// Writes a new random key to a file that only its owner can read. Never replaces a file.
    ///
    /// # Errors
    ///
    /// `AlreadyExists`, or whatever the file system says.
    pub fn create(path: &Path) -> io::Result<()> {
        let text = Self::generate().map_err(io::Error::other)?;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }

    /// A new random key, as the text of a key file.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`]: make no key then.
    pub fn generate() -> Result<Zeroizing<String>, NoRandomness> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        SystemRandom::new()
            .fill(&mut *bytes)
            .map_err(|_| NoRandomness)?;
        Ok(Zeroizing::new(hex::encode(*bytes)))
    }

    /// Encrypts a secret for one place.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`]: nothing can be kept secret on this machine at the moment.
    pub fn seal(&self, place: Place<'_>, secret: &[u8]) -> Result<Sealed, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new()
            .fill(&mut nonce)
            .map_err(|_| NoRandomness)?;
        let mut sealed = nonce.to_vec();
        let mut content = secret.to_vec();
        self.newest
            .key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                place.to_aad(),
                &mut content,
            )
            .map_err(|_| NoRandomness)?;
        sealed.append(&mut content);
        let text = format!("{VERSION}:{}:{}", self.id(), STANDARD.encode(sealed));
        Ok(Sealed(text))
    }

    /// Decrypts a secret of one place.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: nothing of the secret is known then.
    pub fn open(&self, place: Place<'_>, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let mut parts = sealed.0.splitn(3, ':');
        let (Some(VERSION), Some(key_id), Some(encoded)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(OpenError::Malformed);
        };
        let mut keys = std::iter::once(&self.newest).chain(&self.older);
        let Some(generation) = keys.find(|generation| generation.id == key_id) else {
            return Err(OpenError::OtherKey(key_id.chars().take(16).collect()));
        };
        let bytes = STANDARD.decode(encoded).map_err(|_| OpenError::Malformed)?;
        let Some((nonce, content)) = bytes.split_first_chunk::<NONCE_LEN>() else {
            return Err(OpenError::Malformed);
        };
        let mut content = Zeroizing::new(content.to_vec());
        let length = generation
            .key
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                place.to_aad(),
                &mut content,
            )
            .map_err(|_| OpenError::Tampered)?
            .len();
        content.truncate(length);
        Ok(content)
    }
}

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// A variable of the environment, for platforms that hand secrets over there.
    Variable(&'static str),
    /// A file, which may be a credential of systemd.
    File(PathBuf),
}

impl KeySource {
    /// Reads the keys, as they are now.
    ///
    /// # Errors
    ///
    /// [`KeyError`] says what to do.
    pub fn read(&self) -> Result<SecretKey, KeyError> {
        match self {
            Self::File(path) => SecretKey::read(path),
            Self::Variable(name) => {
                let text = std::env::var_os(name).unwrap_or_default();
                let text = Zeroizing::new(text.into_encoded_bytes());
                SecretKey::parse(&text).ok_or(KeyError::Variable(name))
            }
        }
    }
}

/// The content of a small file that only its owner can read.
///
/// # Errors
///
/// [`KeyError`] says what to do about the file.
pub fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let metadata = fs::metadata(path).map_err(failed)?;
    // What systemd hands over as a credential is readable for its group, and guarded by its directory.
    let is_credential = path.starts_with("/run/credentials");
    if metadata.permissions().mode() & 0o077 != 0 && !is_credential {
        return Err(KeyError::Exposed(path.to_owned()));
    }
    if metadata.len() > KEY_FILE_BYTES_MAX {
        return Err(KeyError::Malformed(path.to_owned()));
    }
    Ok(Zeroizing::new(fs::read(path).map_err(failed)?))
}

/// Why the key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key file {path}; `relay-server init` creates one")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Others can read it.
    #[error("the key file {0} can be read by others; run: chmod 600 {0}")]
    Exposed(PathBuf),
    /// It holds no key.
    #[error(
        "the key file {0} does not hold keys of 64 hex digits, one a line; restore it from your backup"
    )]
    Malformed(PathBuf),
    /// The variable holds no key.
    #[error("{0} does not hold keys of 64 hex digits, one a line")]
    Variable(&'static str),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(tenant: u128, resource: u128, field: &str) -> Place<'_> {
        Place {
            tenant: TenantId::from_u128(tenant),
            resource,
            field,
        }
    }

    #[test]
    fn a_secret_opens_only_where_it_belongs() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let sealed = key.seal(place(1, 2, "secret"), b"whsec_abc").unwrap();

        assert_eq!(
            *key.open(place(1, 2, "secret"), &sealed).unwrap(),
            b"whsec_abc"
        );
        for elsewhere in [
            place(9, 2, "secret"),
            place(1, 9, "secret"),
            place(1, 2, "other"),
        ] {
            assert_eq!(
                key.open(elsewhere, &sealed),
                Err(OpenError::Tampered),
                "{elsewhere:?}"
            );
        }
        let other = SecretKey::from_bytes(&[8; 32]);
        assert!(matches!(
            other.open(place(1, 2, "secret"), &sealed),
            Err(OpenError::OtherKey(_))
        ));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let sealed = key.seal(place(1, 2, "secret"), b"s3cret").unwrap();
        let (head, encoded) = sealed.0.rsplit_once(':').unwrap();
        let bytes = STANDARD.decode(encoded).unwrap();
        for index in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[index] ^= 1;
            let changed = Sealed(format!("{head}:{}", STANDARD.encode(changed)));
            assert_eq!(
                key.open(place(1, 2, "secret"), &changed),
                Err(OpenError::Tampered)
            );
        }
        for text in [
            "",
            "v1",
            "v1:x",
            "v2:a:b",
            &format!("{head}:"),
            &format!("{head}:AAAA"),
        ] {
            assert!(
                key.open(place(1, 2, "secret"), &Sealed(text.to_owned()))
                    .is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn older_keys_open_and_the_newest_seals() {
        let (old, new) = ("07".repeat(32), "08".repeat(32));
        let sealed = SecretKey::from_bytes(&[7; 32])
            .seal(place(1, 2, "secret"), b"s3cret")
            .unwrap();
        let both = SecretKey::parse(format!("{new}\n{old}\n").as_bytes()).unwrap();

        assert_eq!(
            *both.open(place(1, 2, "secret"), &sealed).unwrap(),
            b"s3cret"
        );
        let again = both.seal(place(1, 2, "secret"), b"s3cret").unwrap();
        let alone = SecretKey::parse(new.as_bytes()).unwrap();
        assert_eq!(again.key_id(), Some(alone.id()));
        assert!(alone.open(place(1, 2, "secret"), &again).is_ok());
        assert!(matches!(
            alone.open(place(1, 2, "secret"), &sealed),
            Err(OpenError::OtherKey(_))
        ));
        let many = format!("{new}\n").repeat(KEYS_MAX + 1);
        for text in ["", "\n", &old[1..], &format!("{old}\nx"), &many] {
            assert!(SecretKey::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn nothing_secret_is_shown() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let sealed = key.seal(place(1, 2, "secret"), b"canary").unwrap();
        let shown = format!("{key:?} {sealed:?} {}", sealed.as_str());

        assert!(!shown.contains("canary"));
        assert!(!shown.contains("0707"));
    }

    #[test]
    fn a_key_file_is_private_and_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret_key");
        SecretKey::create(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let first = SecretKey::read(&path).unwrap();
        assert_eq!(
            SecretKey::create(&path).unwrap_err().kind(),
            io::ErrorKind::AlreadyExists
        );
        assert_eq!(SecretKey::read(&path).unwrap().id(), first.id());

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(SecretKey::read(&path), Err(KeyError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(
            SecretKey::read(&path),
            Err(KeyError::Malformed(_))
        ));
        fs::remove_file(&path).unwrap();
        assert!(matches!(SecretKey::read(&path), Err(KeyError::Read { .. })));
    }
}
