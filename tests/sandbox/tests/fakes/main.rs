//! The fakes themselves, asked over HTTP.

mod callback;
mod client;
mod executions;
mod metadata;
mod token;
