//! The profiles of AWS's own tools: `~/.aws/credentials` and `~/.aws/config`.
//!
//! ```text
//! [profile lab]                      in config; [lab] in credentials
//! aws_access_key_id = …              region = …      endpoint_url = …
//! ```
//! Only what stands in the files is read. Sign-on, roles and programs that print credentials are left to AWS's tool, which
//! turns them into variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::environment::Environment;
use crate::error::{Result, StoreError};

/// Longest file of profiles that is read, in bytes.
const MAX_PROFILES_LEN: u64 = 1 << 20;

/// Settings by which AWS's tool would go and fetch credentials.
const FETCHED: [&str; 5] = [
    "sso_session",
    "sso_start_url",
    "role_arn",
    "credential_process",
    "login_session",
];

/// The settings of one profile, both files taken together.
#[derive(Default)]
pub(super) struct Profile(BTreeMap<String, String>);

impl Profile {
    /// Reads the profile that `AWS_PROFILE` names, or `default`.
    ///
    /// # Errors
    /// * `Input`: `AWS_PROFILE` names none that there is, or the profile's credentials have to be fetched.
    /// * `Backend`: a file is there and cannot be read.
    pub(super) fn read(environment: &Environment) -> Result<Self> {
        let asked = environment.first(&["AWS_PROFILE", "AWS_DEFAULT_PROFILE"]);
        let name = asked.map_or("default", |(_, name)| name);
        let file = |variable: &str, usual: &str| -> Option<PathBuf> {
            let named = environment.get(variable).map(PathBuf::from);
            named.or_else(|| environment.at_home(usual))
        };
        let mut settings = BTreeMap::new();
        let mut is_found = false;
        for (path, heading) in [
            (file("AWS_CONFIG_FILE", ".aws/config"), format!("profile {name}")),
            (
                file("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
                name.to_owned(),
            ),
        ] {
            let Some(text) = path.map(read).transpose()?.flatten() else {
                continue;
            };
            is_found |= section(&text, name, &heading, &mut settings);
        }
        let profile = Self(settings);
        if let (false, Some((variable, name))) = (is_found, asked) {
            return Err(StoreError::input(
                format!("{variable}={name}"),
                "neither ~/.aws/credentials nor ~/.aws/config has such a profile",
                "Correct the name, or run `aws configure list-profiles` to see which there are",
            ));
        }
        let fetched = FETCHED.iter().find(|setting| profile.get(setting).is_some());
        match fetched {
            Some(setting) if profile.keys().is_none() => Err(StoreError::input(
                format!("profile {name} of ~/.aws"),
                format!("its credentials have to be fetched ({setting}), which tpde does not do itself"),
                format!(
                    "Run `eval \"$(aws configure export-credentials --profile {name} --format env)\"` and try again"
                ),
            )),
            _ => Ok(profile),
        }
    }

    /// The value of a setting.
    pub(super) fn get(&self, setting: &str) -> Option<&str> {
        self.0.get(setting).map(String::as_str)
    }

    /// Id and secret of its key.
    pub(super) fn keys(&self) -> Option<(&str, &str)> {
        Some((self.get("aws_access_key_id")?, self.get("aws_secret_access_key")?))
    }
}

/// The text of a file of profiles; `None` if there is none.
fn read(path: PathBuf) -> Result<Option<String>> {
    let failed = |source: std::io::Error| StoreError::Backend {
        action: "read",
        key: path.display().to_string(),
        source: source.into(),
        hint: "Mend the file, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned(),
    };
    match std::fs::metadata(&path) {
        Ok(meta) if meta.len() > MAX_PROFILES_LEN => Err(failed(std::io::Error::other(
            "it is too long for a file of profiles",
        ))),
        Ok(_) => std::fs::read_to_string(&path).map(Some).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(e)),
    }
}

/// Adds the settings below the headings `[name]` and `[heading]`; says whether there was one.
fn section(text: &str, name: &str, heading: &str, into: &mut BTreeMap<String, String>) -> bool {
    let (mut is_ours, mut is_found) = (false, false);
    for line in text.lines() {
        // What is indented belongs to the setting above it.
        if line.starts_with(['#', ';', ' ', '\t']) {
            continue;
        }
        if let Some(title) = line
            .trim_end()
            .strip_prefix('[')
            .and_then(|l| l.strip_suffix(']'))
        {
            let title = title.trim();
            is_ours = title == name || title == heading;
            is_found |= is_ours;
        } else if let (true, Some((setting, value))) = (is_ours, line.split_once('=')) {
            let (setting, value) = (setting.trim().to_ascii_lowercase(), value.trim());
            if !value.is_empty() {
                into.insert(setting, value.to_owned());
            }
        }
    }
    is_found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the profile that is named is read from both files, credentials before config, and none but it.
    #[test]
    fn profiles() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join(".aws")).unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(home.path().join(".aws").join(name), text).unwrap();
        write(
            "config",
            "# a comment\n[default]\nregion = eu-west-1\n\n[profile lab]\nREGION=eu-central-1\nendpoint_url = http://lab:9000\ns3 =\n  region = no\n[profile far]\nsso_session = x\n",
        );
        write(
            "credentials",
            "[default]\naws_access_key_id=A\naws_secret_access_key = S=+/\n[lab]\naws_access_key_id = B\naws_secret_access_key = T\n",
        );
        let at = |profile: &str| {
            let home = home.path().to_str().unwrap();
            Profile::read(&[("HOME", home), ("AWS_PROFILE", profile)].into_iter().collect())
        };
        let profile = at("").unwrap();
        assert_eq!(
            (profile.keys(), profile.get("region")),
            (Some(("A", "S=+/")), Some("eu-west-1"))
        );
        let profile = at("lab").unwrap();
        assert_eq!(
            (profile.keys(), profile.get("region")),
            (Some(("B", "T")), Some("eu-central-1"))
        );
        assert_eq!(profile.get("endpoint_url"), Some("http://lab:9000"));
        for (name, reason) in [("far", "export-credentials"), ("gone", "AWS_PROFILE=gone")] {
            let error = at(name).err().unwrap();
            assert!(error.to_string().contains(reason), "{error}");
        }
        let nowhere = Profile::read(&[("HOME", "/nonexistent")].into_iter().collect()).unwrap();
        assert!(nowhere.keys().is_none());
    }
}
