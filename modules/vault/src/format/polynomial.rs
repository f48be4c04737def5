//! Irreducible polynomials over GF(2) of degree 53; bit `n` is the coefficient of xⁿ.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The degree: a prime, and small enough that eight more bits fit a machine word.
pub const DEGREE: u32 = 53;

/// A polynomial by which files are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Polynomial(u64);

impl Polynomial {
    /// Takes the coefficients; `None` unless the degree is 53 and nothing divides it.
    pub fn new(bits: u64) -> Option<Self> {
        let polynomial = Self(bits);
        (bits >> DEGREE == 1 && polynomial.is_irreducible()).then_some(polynomial)
    }

    /// Draws one.
    ///
    /// # Errors
    /// If the system has no random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        loop {
            let bits = getrandom::u64()? & ((1 << DEGREE) - 1) | (1 << DEGREE) | 1;
            if let Some(found) = Self::new(bits) {
                return Ok(found);
            }
        }
    }

    /// Returns the coefficients.
    pub fn bits(self) -> u64 {
        self.0
    }

    /// By Rabin's test: 53 is prime, so only factors of degree 1 have to be ruled out beside x^(2^53) = x.
    fn is_irreducible(self) -> bool {
        let has_linear_factor = self.0 & 1 == 0 || self.0.count_ones().is_multiple_of(2);
        let mut power = 2;
        for _ in 0..DEGREE {
            power = self.multiply(power, power);
        }
        !has_linear_factor && power == 2
    }

    /// Returns `a·b` modulo the polynomial; both must be reduced.
    fn multiply(self, mut a: u64, mut b: u64) -> u64 {
        let mut product = 0;
        while b != 0 {
            if b & 1 == 1 {
                product ^= a;
            }
            a = self.shift(a, 1);
            b >>= 1;
        }
        product
    }

    /// Returns `value·x^by` modulo the polynomial.
    pub fn shift(self, mut value: u64, by: u32) -> u64 {
        for _ in 0..by {
            value <<= 1;
            if value >> DEGREE == 1 {
                value ^= self.0;
            }
        }
        value
    }
}

impl Serialize for Polynomial {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Polynomial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bits = u64::from_str_radix(&text, 16).ok();
        bits.and_then(Self::new).ok_or_else(|| {
            serde::de::Error::custom(format!("`{text}` is no irreducible polynomial of degree 53"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_polynomial_of_the_specification_is_irreducible_and_its_neighbours_are_not() {
        let example = 0x25_b468_838d_cb75;
        assert!(Polynomial::new(example).is_some());
        assert!(Polynomial::new(example ^ 1).is_none(), "x divides it");
        assert!(Polynomial::new(example ^ 2).is_none(), "x+1 divides it");
        assert!(Polynomial::new(example >> 1).is_none(), "its degree is 52");
    }

    #[test]
    fn a_product_of_two_polynomials_is_not_irreducible() {
        // (x² + x + 1) · (x⁵¹ + x + 1), multiplied without carries.
        let (a, b) = (0b111_u64, (1_u64 << 51) | 0b11);
        let product = (0..3).filter(|bit| a >> bit & 1 == 1).fold(0, |all, bit| all ^ (b << bit));
        assert_eq!(product >> DEGREE, 1);
        assert!(Polynomial::new(product).is_none());
    }

    #[test]
    fn about_one_in_thirteen_is_irreducible() {
        let found = (0..2000_u64)
            .filter(|n| {
                Polynomial::new((1 << DEGREE) | (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 12) << 1 | 1)
                    .is_some()
            })
            .count();
        assert!((40..240).contains(&found), "{found}");
    }
}
