//! Publishing to a topic.
