//! Numbers, texts and bytes, little-endian and length-prefixed. Reading is total.

use bytes::{Buf, Bytes};

/// Bytes that are not what a reader expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload is not of the form its kind requires")]
pub(crate) struct Malformed;

/// Builds a payload.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.0.push(value);
        self
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    pub(super) fn u128(&mut self, value: u128) -> &mut Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// At most 4 GiB; everything that is kept is far smaller.
    pub(super) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.0.extend_from_slice(value);
        self
    }

    pub(super) fn option<T>(
        &mut self,
        value: Option<T>,
        some: impl FnOnce(&mut Self, T),
    ) -> &mut Self {
        match value {
            None => self.u8(0),
            Some(value) => {
                self.u8(1);
                some(self, value);
                self
            }
        }
    }

    pub(super) fn finish(self) -> Bytes {
        self.0.into()
    }
}

/// Takes a payload apart; byte strings are slices of it.
#[derive(Debug)]
pub(super) struct Decoder(pub(super) Bytes);

macro_rules! number {
    ($name:ident, $type:ty, $get:ident) => {
        pub(super) fn $name(&mut self) -> Result<$type, Malformed> {
            if self.0.remaining() < size_of::<$type>() {
                return Err(Malformed);
            }
            Ok(self.0.$get())
        }
    };
}

impl Decoder {
    number!(u8, u8, get_u8);
    number!(u16, u16, get_u16_le);
    number!(u32, u32, get_u32_le);
    number!(u64, u64, get_u64_le);
    number!(u128, u128, get_u128_le);

    pub(super) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        if self.0.remaining() < length {
            return Err(Malformed);
        }
        Ok(self.0.split_to(length))
    }

    pub(super) fn text(&mut self) -> Result<String, Malformed> {
        String::from_utf8(self.bytes()?.into()).map_err(|_| Malformed)
    }

    pub(super) fn option<T>(
        &mut self,
        some: impl FnOnce(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Option<T>, Malformed> {
        match self.u8()? {
            0 => Ok(None),
            1 => some(self).map(Some),
            _ => Err(Malformed),
        }
    }

    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.has_remaining() {
            Err(Malformed)
        } else {
            Ok(())
        }
    }
}
