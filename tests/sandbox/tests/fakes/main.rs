//! The fakes themselves, asked over HTTP.

mod callback;
mod client;
mod compute;
mod executions;
mod google_protos;
mod logging;
mod metadata;
mod secret_manager;
mod storage;
mod token;
