//! Tests: the stream compared with decoding everything at once, for text and for garbage.

use super::*;
use crate::text::testing::{END_OF_TURN, byte_level_codec, sentence_piece_codec};
use proptest::prelude::*;
use std::sync::LazyLock;

static BYTE_LEVEL: LazyLock<Arc<Codec>> = LazyLock::new(byte_level_codec);
static SENTENCE_PIECE: LazyLock<Arc<Codec>> = LazyLock::new(sentence_piece_codec);

/// The result of each push, and finally that of the end; the window must stay small throughout.
fn stream(codec: &Arc<Codec>, ids: &[u32]) -> Vec<String> {
    let mut decoder = StreamDecoder::new(Arc::clone(codec));
    let mut pieces = Vec::new();
    for &id in ids {
        pieces.push(decoder.push(id).unwrap());
        assert!(decoder.window.len() <= MAX_WINDOW);
    }
    pieces.push(decoder.finish());
    pieces
}

#[test]
fn an_emoji_appears_with_its_last_byte_and_not_before() {
    let ids = BYTE_LEVEL.encode("a,👍世b", false).unwrap();
    // The comma shares a token with the emoji's first byte.
    assert_eq!(ids.len(), 1 + 1 + 3 + 3 + 1);
    let pieces = stream(&BYTE_LEVEL, &ids);
    assert_eq!(pieces, ["a", ",", "", "", "👍", "", "", "世", "b", ""]);
}

#[test]
fn special_tokens_give_nothing_and_break_nothing() {
    let mut ids = BYTE_LEVEL.encode("👍", false).unwrap();
    let special = BYTE_LEVEL.token_id(END_OF_TURN).unwrap();
    ids.insert(2, special);
    ids.push(special);
    ids.push(1_000_000);
    assert_eq!(stream(&BYTE_LEVEL, &ids).concat(), "👍");
    let shown = BYTE_LEVEL.token_id("<tool_call>").unwrap();
    assert_eq!(stream(&BYTE_LEVEL, &[shown]).concat(), "<tool_call>");
}

#[test]
fn special_tokens_are_shown_if_that_is_wanted() {
    let special = BYTE_LEVEL.token_id(END_OF_TURN).unwrap();
    let mut ids = BYTE_LEVEL.encode("a👍", false).unwrap();
    ids.push(special);
    let mut shown = StreamDecoder::showing(Arc::clone(&BYTE_LEVEL), Shown::Special);
    let mut text: String = ids.iter().map(|id| shown.push(*id).unwrap()).collect();
    text += &shown.finish();
    assert_eq!(text, BYTE_LEVEL.decode(&ids, false).unwrap());
    assert!(text.ends_with(END_OF_TURN), "{text}");
}

#[test]
fn an_unfinished_character_comes_at_the_end_as_it_decodes() {
    let ids = BYTE_LEVEL.encode("ok👍", false).unwrap();
    let cut = &ids[..ids.len() - 1];
    let pieces = stream(&BYTE_LEVEL, cut);
    assert_eq!(pieces.concat(), BYTE_LEVEL.decode(cut, true).unwrap());
    assert_eq!(pieces.last().unwrap(), "\u{FFFD}");
}

#[test]
fn leading_spaces_survive_inside_and_vanish_at_the_start() {
    let codec = &SENTENCE_PIECE;
    let ids: Vec<u32> =
        ["▁hello", "▁world", "▁", "▁a", "b"].map(|t| codec.token_id(t).unwrap()).into();
    assert_eq!(stream(codec, &ids), ["hello", " world", " ", " a", "b", ""]);
}

#[test]
fn bytes_that_can_never_be_text_do_not_pile_up() {
    for codec in [&*BYTE_LEVEL, &*SENTENCE_PIECE] {
        let bad = codec.token_id("ÿ").or_else(|| codec.token_id("<0xFF>")).unwrap();
        let pieces = stream(codec, &[bad; 500]);
        assert_eq!(pieces.concat(), "\u{FFFD}".repeat(500));
        assert!(pieces.iter().all(|piece| piece.chars().count() <= MAX_PENDING));
    }
}

#[test]
fn a_broken_byte_after_a_whole_character_takes_nothing_back() {
    let codec = &SENTENCE_PIECE;
    let token = |t: &str| codec.token_id(t).unwrap();
    let ids = [token("<0xC3>"), token("<0xA9>"), token("<0xFF>"), token("a")];
    assert_eq!(stream(codec, &ids).concat(), "é\u{FFFD}a");
}

/// Byte tokens that spell `text`, then an ordinary token, so that there are long runs of bytes.
fn as_bytes(codec: &Codec, text: &str) -> Vec<u32> {
    text.bytes().map(|byte| codec.token_id(&format!("<0x{byte:02X}>")).unwrap()).collect()
}

proptest! {
    #[test]
    fn any_text_streams_as_it_decodes(text in "[^\u{FFFD}]{0,80}", sentence_piece in any::<bool>()) {
        let codec = if sentence_piece { &*SENTENCE_PIECE } else { &*BYTE_LEVEL };
        let ids = codec.encode(&text, true).unwrap();
        let pieces = stream(codec, &ids);
        prop_assert_eq!(pieces.concat(), codec.decode(&ids, true).unwrap());
        // Whole characters are never held back.
        prop_assert_eq!(pieces.last().unwrap(), "");
    }

    #[test]
    fn long_runs_of_byte_tokens_stream_as_they_decode(text in "[aé世👍 ]{0,60}") {
        let ids = as_bytes(&SENTENCE_PIECE, &text);
        let pieces = stream(&SENTENCE_PIECE, &ids);
        prop_assert_eq!(pieces.concat(), SENTENCE_PIECE.decode(&ids, true).unwrap());
        prop_assert!(pieces.iter().all(|piece| piece.chars().count() <= 1));
    }

    #[test]
    fn any_ids_stream_as_they_decode(ids in prop::collection::vec(0u32..270, 0..200)) {
        prop_assert_eq!(stream(&BYTE_LEVEL, &ids).concat(), BYTE_LEVEL.decode(&ids, true).unwrap());
    }

    #[test]
    fn garbage_neither_fails_nor_loses_ordinary_tokens(ids in prop::collection::vec(3u32..268, 0..200)) {
        let out = stream(&SENTENCE_PIECE, &ids).concat();
        let hello = SENTENCE_PIECE.token_id("▁hello").unwrap();
        let expected = ids.iter().filter(|&&id| id == hello).count();
        prop_assert!(out.matches("hello").count() >= expected);
    }
}
