//! The dead man of a machine.

use pc_switcher_contract::ExecError;

use super::Agent;
use crate::proto::{DeadmanOrder, DeadmanState, Request};

impl Agent {
    /// Does something about the dead man, and returns how it stands.
    ///
    /// # Errors
    /// As [`Agent::call`].
    pub async fn deadman(&self, order: DeadmanOrder) -> Result<DeadmanState, ExecError> {
        self.call(&Request::Deadman(order)).await
    }
}
