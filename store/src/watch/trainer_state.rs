//! What Hugging Face's Trainer knows of a checkpoint: the last numbers of `trainer_state.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::metrics::{MAX_METRICS, Metric, Metrics};

const FILE: &str = "trainer_state.json";
/// Largest such file that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// Numbers about the evaluation, and not about the model.
const ABOUT_TIME: [&str; 3] = ["eval_runtime", "eval_samples_per_second", "eval_steps_per_second"];

/// The last loss and the last evaluation that a checkpoint's own log tells; none where there is no such log, or it says something else.
pub fn metrics_of(checkpoint: &Path) -> Metrics {
    let path = checkpoint.join(FILE);
    let is_small = fs::metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= MAX_BYTES);
    let text = is_small.then(|| fs::read(&path).unwrap_or_default());
    let state: Value = serde_json::from_slice(&text.unwrap_or_default()).unwrap_or_default();
    let entries: Vec<&Map<String, Value>> = state["log_history"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .collect();
    let is_eval = |name: &str| name.starts_with("eval_") && !ABOUT_TIME.contains(&name);
    let is_loss = |name: &str| name == "loss";
    let mut found: BTreeMap<&str, f64> = BTreeMap::new();
    let mut take = |is_wanted: &dyn Fn(&str) -> bool| {
        let wanted = |entry: &&&Map<String, Value>| entry.keys().any(|name| is_wanted(name));
        for (name, value) in entries
            .iter()
            .rev()
            .find(wanted)
            .into_iter()
            .flat_map(|entry| entry.iter())
        {
            if let Some(value) = value.as_f64().filter(|_| is_wanted(name)) {
                found.insert(name, value);
            }
        }
    };
    take(&is_loss);
    take(&is_eval);
    let metrics = found
        .into_iter()
        .filter_map(|(name, value)| Metric::new(name, value).ok());
    Metrics::new(metrics.take(MAX_METRICS).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: the newest loss and the newest evaluation are found, and nothing is made up of anything else.
    #[test]
    fn the_last_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let told = |text: &str| -> Vec<String> {
            fs::write(dir.path().join(FILE), text).unwrap();
            metrics_of(dir.path()).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            told(
                r#"{"global_step": 20, "log_history": [
                {"loss": 2.5, "grad_norm": 1.0, "step": 10}, {"eval_loss": 2.25, "eval_runtime": 3.0, "step": 10},
                {"loss": 2.0, "learning_rate": 0.1, "step": 20}, {"eval_loss": 1.75, "eval_accuracy": 0.5, "eval_note": "x", "step": 20},
                {"train_loss": 2.1, "step": 20}]}"#
            ),
            ["eval_accuracy=0.5", "eval_loss=1.75", "loss=2"]
        );
        for text in [
            "",
            "[]",
            r#"{"log_history": 3}"#,
            r#"{"log_history": [3, {"loss": "x"}]}"#,
        ] {
            assert_eq!(told(text), [""; 0], "{text}");
        }
        assert!(metrics_of(&dir.path().join("nowhere")).is_empty());
    }
}
