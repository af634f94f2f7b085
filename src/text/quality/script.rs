//! Which script a text is written in.
//!
//! It uses a table of code point ranges and counts letters. Code blocks are left out, because code is in Latin script
//! in every language. It does not know languages, except for the names with which a request asks for another one.

/// Letters counted; further ones are not read.
const COUNTED: usize = 512;
/// With fewer letters than this, a text has no script.
const FEWEST: usize = 20;
/// Share of the letters that the script must have, in percent.
const DOMINANT: usize = 80;

/// A class of letters. Chinese and Japanese are one class, since both use Han characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    Latin,
    Cyrillic,
    Greek,
    Arabic,
    Hebrew,
    Devanagari,
    Thai,
    HanKana,
    Hangul,
    Other,
}

impl Script {
    const ALL: [Script; 10] = [
        Script::Latin,
        Script::Cyrillic,
        Script::Greek,
        Script::Arabic,
        Script::Hebrew,
        Script::Devanagari,
        Script::Thai,
        Script::HanKana,
        Script::Hangul,
        Script::Other,
    ];

    fn of(letter: char) -> Script {
        let at = RANGES.partition_point(|(_, last, _)| *last < letter);
        let found = RANGES.get(at).filter(|(first, _, _)| *first <= letter);
        found.map_or(Script::Other, |(_, _, script)| *script)
    }
}

/// First and last code point of each range, in order. Only letters are looked up, so a range may hold others.
const RANGES: &[(char, char, Script)] = &[
    ('\u{0000}', '\u{02AF}', Script::Latin),
    ('\u{0370}', '\u{03FF}', Script::Greek),
    ('\u{0400}', '\u{052F}', Script::Cyrillic),
    ('\u{0590}', '\u{05FF}', Script::Hebrew),
    ('\u{0600}', '\u{06FF}', Script::Arabic),
    ('\u{0750}', '\u{077F}', Script::Arabic),
    ('\u{0870}', '\u{08FF}', Script::Arabic),
    ('\u{0900}', '\u{097F}', Script::Devanagari),
    ('\u{0E00}', '\u{0E7F}', Script::Thai),
    ('\u{1100}', '\u{11FF}', Script::Hangul),
    ('\u{1C80}', '\u{1C8F}', Script::Cyrillic),
    ('\u{1E00}', '\u{1EFF}', Script::Latin),
    ('\u{1F00}', '\u{1FFF}', Script::Greek),
    ('\u{2C60}', '\u{2C7F}', Script::Latin),
    ('\u{2DE0}', '\u{2DFF}', Script::Cyrillic),
    ('\u{2E80}', '\u{2FDF}', Script::HanKana),
    ('\u{3005}', '\u{312F}', Script::HanKana),
    ('\u{3130}', '\u{318F}', Script::Hangul),
    ('\u{31A0}', '\u{31FF}', Script::HanKana),
    ('\u{3400}', '\u{4DBF}', Script::HanKana),
    ('\u{4E00}', '\u{9FFF}', Script::HanKana),
    ('\u{A640}', '\u{A69F}', Script::Cyrillic),
    ('\u{A720}', '\u{A7FF}', Script::Latin),
    ('\u{A8E0}', '\u{A8FF}', Script::Devanagari),
    ('\u{A960}', '\u{A97F}', Script::Hangul),
    ('\u{AC00}', '\u{D7FF}', Script::Hangul),
    ('\u{F900}', '\u{FAFF}', Script::HanKana),
    ('\u{FB00}', '\u{FB06}', Script::Latin),
    ('\u{FB1D}', '\u{FB4F}', Script::Hebrew),
    ('\u{FB50}', '\u{FDFF}', Script::Arabic),
    ('\u{FE70}', '\u{FEFE}', Script::Arabic),
    ('\u{FF21}', '\u{FF5A}', Script::Latin),
    ('\u{FF66}', '\u{FF9F}', Script::HanKana),
    ('\u{FFA0}', '\u{FFDC}', Script::Hangul),
    ('\u{1B000}', '\u{1B16F}', Script::HanKana),
    ('\u{20000}', '\u{323AF}', Script::HanKana),
];

/// Words, in lower case, of a message that may want its answer in another script: beginnings of "translate" and of
/// "English" in several languages, and languages that are not written in Latin letters.
const ELSEWHERE: &[&str] = &[
    "translat",
    "transliterat",
    "tradu",
    "übersetz",
    "перевед",
    "перевод",
    "翻译",
    "翻譯",
    "翻訳",
    "번역",
    "ترجم",
    "अनुवाद",
    "english",
    "англий",
    "英语",
    "英語",
    "英文",
    "영어",
    "الإنجليزية",
    "अंग्रेज",
    "ภาษาอังกฤษ",
    "αγγλικ",
    "אנגלית",
    "russian",
    "ukrainian",
    "bulgarian",
    "serbian",
    "greek",
    "arabic",
    "persian",
    "urdu",
    "hebrew",
    "hindi",
    "thai",
    "chinese",
    "mandarin",
    "japanese",
    "korean",
];

/// The script that nearly all letters of a text have; `None` if there is none, or too few letters.
pub(super) fn dominant(text: &str) -> Option<Script> {
    let mut counts = [0usize; Script::ALL.len()];
    for letter in prose(text).filter(|c| c.is_alphabetic()).take(COUNTED) {
        counts[Script::of(letter) as usize] += 1;
    }
    let total: usize = counts.iter().sum();
    let most = Script::ALL.into_iter().max_by_key(|script| counts[*script as usize])?;
    let enough = total >= FEWEST && 100 * counts[most as usize] >= DOMINANT * total;
    enough.then_some(most)
}

/// The characters of a text outside of its fenced code blocks.
fn prose(text: &str) -> impl Iterator<Item = char> {
    let mut inside = false;
    let lines = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !fence && !inside
    });
    lines.flat_map(str::chars)
}

/// Whether a message may want its answer in another script than its own.
pub(super) fn may_change(message: &str) -> bool {
    let message = message.to_lowercase();
    ELSEWHERE.iter().any(|word| message.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_in_order_and_do_not_overlap() {
        assert!(RANGES.iter().all(|(first, last, _)| first <= last));
        assert!(RANGES.windows(2).all(|pair| pair[0].1 < pair[1].0));
        for (place, script) in Script::ALL.into_iter().enumerate() {
            assert_eq!(script as usize, place);
        }
    }

    #[test]
    fn letters_have_their_script() {
        let cases = [
            ("aZéßƀɐẞﬁＡ", Script::Latin),
            ("яЁҐѢꙀ", Script::Cyrillic),
            ("αΏἀ", Script::Greek),
            ("عپﻻ", Script::Arabic),
            ("אשׁ", Script::Hebrew),
            ("कहॐ", Script::Devanagari),
            ("กๆ", Script::Thai),
            ("世々あンｱ𠀀", Script::HanKana),
            ("한ㄱᄀ", Script::Hangul),
            ("աაதမ", Script::Other),
        ];
        for (letters, script) in cases {
            for letter in letters.chars() {
                assert_eq!(Script::of(letter), script, "{letter} {:x}", u32::from(letter));
            }
        }
    }

    #[test]
    fn the_dominant_script_has_four_letters_of_five_and_enough_of_them() {
        let latin = |count: usize| "a".repeat(count);
        let mixed = |latin: usize, others: usize| "a1 ".repeat(latin) + &"я, ".repeat(others);
        let cases = [
            (String::new(), None),
            ("12 + 34 = 46 !?".repeat(9), None),
            (latin(19), None),
            (latin(20), Some(Script::Latin)),
            (mixed(80, 20), Some(Script::Latin)),
            (mixed(79, 21), None),
            (mixed(20, 80), Some(Script::Cyrillic)),
            ("東京は日本の首都であり、世界最大の都市の一つです。".into(), Some(Script::HanKana)),
            ("北京是中国的首都，也是全国的政治和文化中心之一。".into(), Some(Script::HanKana)),
            // What comes after the letters that are counted does not matter.
            (latin(COUNTED) + &"я".repeat(9 * COUNTED), Some(Script::Latin)),
        ];
        for (text, script) in cases {
            assert_eq!(dominant(&text), script, "{text:.60}");
        }
    }

    #[test]
    fn code_blocks_are_left_out() {
        let words = "Вот функция, которая складывает числа:";
        let code = "def add(first, second):\n    return first + second\n".repeat(3);
        for fence in ["```", "  ```"] {
            let text = format!("{words}\n{fence}python\n{code}{fence}\nГотово.");
            assert_eq!(dominant(&text), Some(Script::Cyrillic));
            assert_eq!(dominant(&format!("{fence}\n{code}")), None);
        }
        assert_eq!(dominant(&format!("{words}\n{code}")), None);
    }

    #[test]
    fn a_message_may_want_another_script() {
        let cases = [
            ("Translate this: good morning", true),
            ("How do you say thanks in Japanese?", true),
            ("Переведи на другой язык", true),
            ("请用英文回答", true),
            ("Write a poem about finches", false),
            ("Напиши стихи о птицах", false),
            ("", false),
        ];
        for (message, may) in cases {
            assert_eq!(may_change(message), may, "{message}");
        }
    }
}
