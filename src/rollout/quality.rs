//! Flags of a reply that is likely to be poor, found without knowing what the right reply would be.
//!
//! A flag proves nothing about one reply: some are empty or refused for good reasons. It counts when one arm has
//! it more often than the other under the same traffic. Plain data: it does not know how a flag is found, or what
//! follows from it.

use serde::{Deserialize, Serialize};

named! {
    /// One reason to think that a reply is poor. The order is fixed: a flag's position is its bit in
    /// [`Flags::bits`], and journals keep those.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Flag {
        /// It ended by itself without any text or tool call.
        Empty = "empty",
        /// It reached its maximum length.
        Length = "length",
        /// It reached its maximum length while repeating the same tokens, and the prompt does not repeat them.
        Loop = "loop",
        /// It is not the JSON that was asked for, or a tool call in it cannot be parsed.
        Structure = "structure",
        /// It calls a tool that was not offered.
        UnknownTool = "unknown_tool",
        /// It is written in another script than the last user message.
        Script = "script",
        /// It begins with words that usually begin a refusal.
        Refusal = "refusal",
        /// The client disconnected before it was complete.
        Cancelled = "cancelled",
        /// The arm failed before the first token, so that the other arm could answer instead.
        Rescued = "rescued",
    }
}

impl Flag {
    /// The same as a title of a few words.
    pub const fn title(self) -> &'static str {
        match self {
            Flag::Empty => "empty replies",
            Flag::Length => "replies cut by length",
            Flag::Loop => "replies that loop",
            Flag::Structure => "broken JSON or calls",
            Flag::UnknownTool => "calls of unknown tools",
            Flag::Script => "another script",
            Flag::Refusal => "refusals",
            Flag::Cancelled => "clients that left",
            Flag::Rescued => "rescued by stable",
        }
    }

    /// Replies with this flag, in words.
    pub const fn phrase(self) -> &'static str {
        match self {
            Flag::Length => "replies of maximum length",
            Flag::Structure => "replies with broken JSON or tool calls",
            Flag::Script => "replies in another script",
            Flag::Cancelled => "replies that the client cancelled",
            Flag::Rescued => "requests that the arm could not begin",
            Flag::Empty | Flag::Loop | Flag::UnknownTool | Flag::Refusal => self.title(),
        }
    }

    const fn bit(self) -> u16 {
        1 << (self as u16)
    }
}

/// The flags of one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Flags(u16);

impl Flags {
    /// No flag.
    pub const NONE: Flags = Flags(0);

    /// Bits that belong to a flag.
    const KNOWN: u16 = (1 << Flag::ALL.len()) - 1;

    /// These flags and one more.
    #[must_use]
    pub const fn with(self, flag: Flag) -> Flags {
        Flags(self.0 | flag.bit())
    }

    /// Whether a flag is among them.
    pub const fn has(self, flag: Flag) -> bool {
        self.0 & flag.bit() != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// One bit for each flag, the first flag in the lowest bit.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// The flags of `bits`; bits that belong to no flag are dropped.
    pub const fn from_bits(bits: u16) -> Flags {
        Flags(bits & Flags::KNOWN)
    }

    /// Each flag that is set, in order of declaration.
    pub fn iter(self) -> impl Iterator<Item = Flag> {
        Flag::ALL.into_iter().filter(move |flag| self.has(*flag))
    }
}

#[cfg(test)]
mod tests {
    use super::{Flag, Flags};

    #[test]
    fn every_flag_has_its_own_bit_and_the_order_is_fixed() {
        let names = [
            "empty",
            "length",
            "loop",
            "structure",
            "unknown_tool",
            "script",
            "refusal",
            "cancelled",
            "rescued",
        ];
        for (place, (flag, name)) in Flag::ALL.into_iter().zip(names).enumerate() {
            assert_eq!(flag.as_str(), name);
            assert_eq!(Flags::NONE.with(flag).bits(), 1u16 << place, "{name}");
            assert_eq!(serde_json::to_value(flag).unwrap(), name);
            assert_eq!(serde_json::from_value::<Flag>(name.into()).unwrap(), flag);
        }
    }

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        assert!(Flags::NONE.is_empty());
        assert_eq!(Flags::default(), Flags::NONE);
        assert_eq!(Flags::NONE.iter().count(), 0);
        let flags = Flags::NONE.with(Flag::Rescued).with(Flag::Loop).with(Flag::Loop);
        assert!(!flags.is_empty());
        assert_eq!(flags.iter().collect::<Vec<_>>(), [Flag::Loop, Flag::Rescued]);
        for flag in Flag::ALL {
            assert_eq!(flags.has(flag), [Flag::Loop, Flag::Rescued].contains(&flag), "{flag:?}");
        }
        let all = Flag::ALL.into_iter().fold(Flags::NONE, Flags::with);
        assert_eq!(all.iter().collect::<Vec<_>>(), Flag::ALL);
    }

    #[test]
    fn bits_are_read_back_and_unknown_ones_dropped() {
        for bits in 0..=u16::MAX {
            let flags = Flags::from_bits(bits);
            assert_eq!(flags.bits(), bits & 0x1FF);
            let again = flags.iter().fold(Flags::NONE, Flags::with);
            assert_eq!(again, flags);
        }
    }
}
