//! Which gates a dry run met closed: the report names them with their flags.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use pc_switcher_contract::{Answer, Gate, GateKind, Gatekeeper, ModuleError};

/// The gates that a real run would ask at, each once.
#[derive(Debug, Clone, Default)]
pub struct Asked(Arc<Mutex<Vec<GateKind>>>);

impl Asked {
    /// Returns them in the order they were met.
    pub fn gates(&self) -> Vec<GateKind> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes what passes by `inner` only because nothing is written.
    pub fn note_at(&self, inner: Arc<dyn Gatekeeper>) -> Arc<dyn Gatekeeper> {
        Arc::new(Noting { inner, asked: self.clone() })
    }
}

struct Noting {
    inner: Arc<dyn Gatekeeper>,
    asked: Asked,
}

#[async_trait]
impl Gatekeeper for Noting {
    async fn pass(&self, gate: Gate) -> Result<Answer, ModuleError> {
        let kind = gate.kind;
        let answer = self.inner.pass(gate).await?;
        let mut asked = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answer == Answer::DryRun && !asked.contains(&kind) {
            asked.push(kind);
        }
        Ok(answer)
    }
}
