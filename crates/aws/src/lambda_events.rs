//! What Lambda hands to a function.
