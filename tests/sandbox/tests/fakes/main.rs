//! The fakes themselves, asked over HTTP.

mod callback;
mod client;
mod executions;
mod metadata;
mod secret_manager;
mod token;
