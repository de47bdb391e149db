//! Metrics as log lines.
