//! Tokens: Hugging Face's tokenizers.

use std::collections::BTreeSet;

use serde_json::json;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::models::ModelWrapper;

pub struct Tokenizer {
    library: tokenizers::Tokenizer,
    vocab: u32,
}

impl Tokenizer {
    /// Reads a tokenizer.json. It drops truncation and padding, with which a file would silently cut and fill every text.
    pub fn read(file: &[u8]) -> Result<Tokenizer, String> {
        let mut library = tokenizers::Tokenizer::from_bytes(file).map_err(|e| e.to_string())?;
        library.with_truncation(None).map_err(|e| e.to_string())?;
        library.with_padding(None);
        if let ModelWrapper::BPE(model) = library.get_model() {
            if let Some(dropout) = model.dropout.filter(|p| *p != 0.0) {
                return Err(format!("model: dropout of {dropout} makes the tokens of a text random; set it to null"));
            }
        }
        let mut ids: Vec<u32> = library.get_vocab(true).into_values().collect();
        ids.sort_unstable();
        let last = *ids.last().ok_or("the vocabulary is empty")?;
        if last > i32::MAX as u32 {
            return Err(format!("a token has id {last}"));
        }
        let tokenizer = Tokenizer { library, vocab: last + 1 };
        tokenizer.try_out(&ids)?;
        Ok(tokenizer)
    }

    /// Uses each part once, because the library panics at some faults of a file only when it comes to them. An error, such
    /// as a text without tokens, is not a fault of the file.
    fn try_out(&self, all: &[u32]) -> Result<(), String> {
        let characters: String = ('\u{1}'..'\u{250}').chain("日本語 😀\u{200b}\u{feff}".chars()).collect();
        for text in [characters.as_str(), "The dog's 1999 cats,\n\n  and 12 mice.", " ", "a"] {
            for special in [false, true] {
                let Ok(ids) = self.encode(text, special) else { continue };
                if let Some(id) = ids.iter().find(|id| **id >= self.vocab) {
                    return Err(format!("it makes the id {id}, which is not in the vocabulary of {}", self.vocab));
                }
                let _ = self.decode(&ids, false);
            }
        }
        for ids in all.chunks(1 << 12) {
            let _ = self.decode(ids, false);
        }
        Ok(())
    }

    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, String> {
        let encoding = self.library.encode_fast(text, special).map_err(|e| e.to_string())?;
        Ok(encoding.get_ids().to_vec())
    }

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, String> {
        self.library.decode(ids, skip_special).map_err(|e| e.to_string())
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        self.library.token_to_id(token)
    }

    /// Describes the vocabulary as JSON: its size, the ids that decoding may skip, and those that a decoder with byte
    /// fallback reads as bytes.
    pub fn describe(&self) -> String {
        let special: BTreeSet<u32> = self
            .library
            .get_added_tokens_decoder()
            .into_iter()
            .filter_map(|(id, token)| token.special.then_some(id))
            .collect();
        let mut bytes = BTreeSet::new();
        if self.library.get_decoder().is_some_and(has_byte_fallback) {
            bytes.extend(
                self.library.get_vocab(true).into_iter().filter_map(|(token, id)| is_byte(&token).then_some(id)),
            );
        }
        json!({ "vocab": self.vocab, "special": special, "bytes": bytes }).to_string()
    }
}

fn has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => sequence.get_decoders().iter().any(has_byte_fallback),
        _ => false,
    }
}

/// Whether ByteFallback reads a token as a byte, by its own rule.
fn is_byte(token: &str) -> bool {
    token.len() == 6
        && token.starts_with("<0x")
        && token.ends_with('>')
        && token.get(3..5).is_some_and(|digits| u8::from_str_radix(digits, 16).is_ok())
}
