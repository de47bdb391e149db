//! The official SDK behind the traits.
