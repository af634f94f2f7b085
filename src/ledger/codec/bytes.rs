//! Reading and writing bytes: single bytes, fixed arrays, varints of up to 128 bits, texts.
//!
//! It does not know about events. Varints are LEB128: seven bits per byte, lowest first. Signed ones are
//! zigzag-encoded, so that small differences of either sign stay short.

use super::CodecError;

#[derive(Debug)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(capacity: usize) -> Writer {
        Writer(Vec::with_capacity(capacity))
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn fixed(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn float(&mut self, value: f32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn varint(&mut self, mut value: u128) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub(super) fn signed(&mut self, value: i128) {
        self.varint(((value << 1) ^ (value >> 127)) as u128);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.varint(text.len() as u128);
        self.0.extend_from_slice(text.as_bytes());
    }
}

#[derive(Debug)]
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, CodecError> {
        let (byte, rest) = self.0.split_first().ok_or(CodecError::Short)?;
        self.0 = rest;
        Ok(*byte)
    }

    pub(super) fn fixed(&mut self) -> Result<u64, CodecError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// A finite number.
    pub(super) fn float(&mut self) -> Result<f32, CodecError> {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        let value = f32::from_le_bytes(bytes);
        if value.is_finite() { Ok(value) } else { Err(CodecError::Invalid("figure")) }
    }

    pub(super) fn varint(&mut self) -> Result<u128, CodecError> {
        let mut value = 0;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            // Too large, or longer than necessary.
            if bits << shift >> shift != bits || (byte == 0 && shift > 0) {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Invalid("number"))
    }

    pub(super) fn signed(&mut self) -> Result<i128, CodecError> {
        let folded = self.varint()?;
        Ok((folded >> 1) as i128 ^ -((folded & 1) as i128))
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, CodecError> {
        u64::try_from(self.varint()?).map_err(|_| CodecError::Invalid(what))
    }

    pub(super) fn text(&mut self) -> Result<String, CodecError> {
        let length = usize::try_from(self.varint()?).map_err(|_| CodecError::Short)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| CodecError::Invalid("text"))?;
        Ok(text.to_owned())
    }
}
