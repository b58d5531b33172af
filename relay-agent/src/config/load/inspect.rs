//! What `doctor` and `bugreport` learn of a configuration, also if a part of it is wrong.

use std::path::PathBuf;

use super::{Environment, Origins, Setting, TokenOrigin, Way, ca_file, find_file, forward, way};
use crate::{
    args::LinkArgs,
    config::{LinkConfig, Serve},
    explain::Failure,
    forward::AllowTargets,
};

/// A configuration as far as it can be read.
#[derive(Debug)]
pub struct Inspected {
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
    /// Key, value and origin of each setting. Secrets are masked.
    pub settings: Vec<Setting>,
    /// How to reach the relay. Its token is a placeholder if none was found.
    pub link: LinkConfig,
    /// Where the token is from, or why there is none.
    pub token: Result<TokenOrigin, Failure>,
    /// CA certificates to trust beside those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// What may be called at all.
    pub allow_targets: AllowTargets,
    /// What is served, if anything.
    pub serve: Result<Option<Serve>, Failure>,
    /// Where `run` keeps id and journal, if there is a place.
    pub data_dir: Option<PathBuf>,
}

impl Inspected {
    /// Reads flags, environment and file, of which none is needed. What only `run` needs may be wrong.
    ///
    /// # Errors
    ///
    /// A [`Failure`] if not even the relay is known.
    pub fn load(args: &LinkArgs, environment: &impl Environment) -> Result<Self, Failure> {
        let (path, file) = find_file(args, environment)?;
        let mut origins = Origins::default();
        let Way { link, token } = way(args, &file, environment, &mut origins)?;
        let ca_file = ca_file(args, &file, &mut origins);
        let allowed = forward::allow_targets(&file, &mut origins);
        let allow_targets = allowed.as_ref().cloned().unwrap_or_default();
        let serve = match file.forward.is_empty() {
            true => Ok(None),
            false => allowed
                .and_then(|allow| forward::destinations(&file, &allow, &mut origins).map(Some)),
        };
        let data_dir = file.data_dir.clone();
        Ok(Self {
            file: path,
            settings: origins.0,
            link,
            token,
            ca_file,
            allow_targets,
            serve,
            data_dir: data_dir.or_else(|| super::state_directory(environment).ok()),
        })
    }
}
