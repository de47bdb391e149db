//! One file a use case; each reads top to bottom.

pub(crate) mod backup;
pub(crate) mod demo;
pub(crate) mod etl;
pub(crate) mod forget;
pub(crate) mod generate;
pub(crate) mod history;
pub(crate) mod models;
pub(crate) mod plan;
pub(crate) mod recommend;
pub(crate) mod replay;
pub(crate) mod settings;
pub(crate) mod similar;
pub(crate) mod status;
pub(crate) mod stream;
pub(crate) mod train;
