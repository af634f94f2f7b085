//! The symmetric signature of the Standard Webhooks specification 1.0.0 ("Signature scheme", "Webhook
//! headers"): HMAC-SHA256 over `id.timestamp.body`, in base64 after `v1,`.
//!
//! Pure: it knows neither a clock nor HTTP. It uses the symmetric scheme and not `v1a` (ed25519) because
//! every receiving library supports it, and because here the operator owns both ends. The crate `standardwebhooks`
//! (1.0.1) would add another HMAC, another base64 and `time` as dependencies; here it takes one call of `hmac`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;

/// The prefix of a serialised secret.
const PREFIX: &str = "whsec_";
/// A secret's length in bytes; the specification says 192 to 512 bits.
const LENGTH: std::ops::RangeInclusive<usize> = 24..=64;

/// The key for signing a webhook's deliveries. Never shown, not even by `Debug`.
#[derive(Clone)]
pub(super) struct Secret(Hmac<Sha256>);

impl Secret {
    /// Parses `whsec_` and base64. The error says what to write instead and does not repeat the text.
    pub(super) fn parse(text: &str) -> Result<Secret, String> {
        let hint = "give whsec_ and 24 to 64 random bytes in base64, as from: \
                    echo \"whsec_$(openssl rand -base64 32)\"";
        let Some(rest) = text.strip_prefix(PREFIX) else {
            return Err(format!("does not begin with {PREFIX}; {hint}"));
        };
        let bytes = STANDARD.decode(rest).map_err(|_| format!("is not base64; {hint}"))?;
        if !LENGTH.contains(&bytes.len()) {
            return Err(format!("is {} bytes long; {hint}", bytes.len()));
        }
        Hmac::new_from_slice(&bytes).map(Secret).map_err(|e| format!("{e}; {hint}"))
    }

    /// The value of the header `webhook-signature` for one attempt.
    pub(super) fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(format!("{id}.{timestamp}.").as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of the reference libraries.
    #[test]
    fn agrees_with_the_reference_vector() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature =
            secret.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, br#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    /// From Python's `hmac`, with a key of the maximum length and a body that is not ASCII.
    #[test]
    fn agrees_with_another_implementation() {
        let key: Vec<u8> = (0..64).collect();
        let secret = Secret::parse(&format!("whsec_{}", STANDARD.encode(key))).unwrap();
        let signature = secret.sign("msg_0", 1, "{\"why\":\"1.5 × stable\"}".as_bytes());
        assert_eq!(signature, "v1,ArFbF+Fy4dRDuNacDzMpyzqaTl/ih/hDKRhZLac2Lbs=");
    }

    #[test]
    fn refuses_what_is_no_secret_without_repeating_it() {
        let of = |n: usize| format!("whsec_{}", STANDARD.encode(vec![7; n]));
        assert!(Secret::parse(&of(24)).is_ok());
        assert!(Secret::parse(&of(64)).is_ok());
        for bad in [of(23), of(65), of(0), "MfKQ9r8G".into(), "whsec_%%%%".into()] {
            let error = Secret::parse(&bad).unwrap_err();
            assert!(error.contains("openssl rand"), "{error}");
            let rest = bad.trim_start_matches("whsec_");
            assert!(rest.is_empty() || !error.contains(rest), "{error}");
        }
        assert_eq!(format!("{:?}", Secret::parse(&of(24)).unwrap()), "Secret(hidden)");
    }
}
