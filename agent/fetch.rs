//! The image: there already, or pulled with the service account's token.
//!
//! Leaves out the pull itself, which is `engine::pull`'s.

use gcp_auth::TokenProvider;

use crate::{
    engine::{Engine, EngineError, RegistryAuth, patiently},
    google::{SCOPES, Tokens, credential},
    http,
    job::{ContainerCommand, Pull},
    progress::{Phase, Progress, Watcher},
    report::Reason,
    settings::Settings,
    supervise::Verdict,
};

/// Makes sure that the image is there, and answers its digest.
pub(crate) async fn fetch_image(
    engine: &Engine,
    command: &ContainerCommand,
    settings: &Settings,
    tokens: &Tokens,
    watcher: &Watcher,
) -> Result<Option<String>, Verdict> {
    let image = &command.image;
    let failed = |message: String| Verdict::without_exit(Reason::ImagePullFailed, message);
    let lost = |error: EngineError| Verdict::without_exit(Reason::EngineLost, http::chain(&error));
    let wait = settings.budgets.engine;
    let inspect = || engine.image(image);
    let inspect = || patiently(wait, EngineError::may_pass, inspect);
    if command.pull != Pull::Always {
        let missing = match inspect().await {
            Ok(present) if present.is_for(command.platform.as_deref()) => return Ok(present.digest),
            Ok(present) => format!("is on this VM for {} alone", present.platform),
            Err(error) if error.may_pass() => return Err(lost(error)),
            Err(_) => "is not on this VM".to_owned(),
        };
        if command.pull == Pull::Never {
            return Err(failed(format!("the image {image} {missing}, and --pull never forbids to fetch it")));
        }
    }
    tracing::info!(image = image.as_str(), "pulling the image");
    watcher(Progress::Phase(Phase::Pulling { image: image.as_str() }));
    let auth = async || registry_auth(image.registry()?, tokens).await;
    let progress = |pull| watcher(Progress::Pull(pull));
    let stall = settings.budgets.pull_stall;
    engine
        .pull(image, command.platform.as_deref(), stall, auth, progress)
        .await
        .map_err(|error| failed(error.to_string()))?;
    Ok(inspect().await.map_err(lost)?.digest)
}

/// The service account's token, for registries that take it. A VM without one may still pull public images.
async fn registry_auth(registry: &str, tokens: &Tokens) -> Option<RegistryAuth> {
    if !credential::registry_takes_token(registry) {
        return None;
    }
    match tokens.token(SCOPES).await {
        Ok(token) => Some(RegistryAuth::access_token(token.as_str(), registry)),
        Err(error) => {
            tracing::warn!(registry, error = http::chain(&error), "pulling without a credential");
            None
        }
    }
}
