//! `named!`: enums whose variants have short names, for use in labels, files and texts.
//!
//! Every module may use it.

/// Defines an enum from its variants and their names: `Variant = "name",`.
///
/// All have `NAMES` and `as_str`. Those without fields also have `ALL`, `from_name` and `Display`.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis enum $Enum:ident { $($(#[$doc:meta])* $Variant:ident = $name:literal,)* }) => {
        $(#[$meta])*
        $vis enum $Enum { $($(#[$doc])* $Variant,)* }

        #[allow(dead_code, reason = "not every enum needs all of it")]
        impl $Enum {
            /// Every one, in the order of declaration.
            pub const ALL: [$Enum; $Enum::NAMES.len()] = [$($Enum::$Variant),*];

            /// Every name, in the order of declaration.
            pub const NAMES: [&str; [$($name),*].len()] = [$($name),*];

            /// Its name, from a bounded set.
            pub const fn as_str(self) -> &'static str {
                $Enum::NAMES[self as usize]
            }

            /// The one of this name.
            pub fn from_name(name: &str) -> Option<$Enum> {
                $Enum::ALL.into_iter().find(|one| one.as_str() == name)
            }
        }

        impl std::fmt::Display for $Enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
    ($(#[$meta:meta])* $vis:vis enum $Enum:ident {
        $($(#[$doc:meta])* $Variant:ident $(($($types:tt)*))? $({ $($fields:tt)* })? = $name:literal,)*
    }) => {
        $(#[$meta])*
        $vis enum $Enum { $($(#[$doc])* $Variant $(($($types)*))? $({ $($fields)* })?,)* }

        impl $Enum {
            /// Every name, in the order of declaration.
            pub const NAMES: [&str; [$($name),*].len()] = [$($name),*];

            /// Its name, from a bounded set.
            pub const fn as_str(&self) -> &'static str {
                match self { $($Enum::$Variant { .. } => $name,)* }
            }
        }
    };
}
