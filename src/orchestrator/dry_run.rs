//! What a real run would do: every module's plan, nothing written.

use pc_switcher_contract::{ModuleError, ModuleResult};

use super::phases::Validated;
use super::plan::RunPlan;
use super::run::Engine;

impl Engine {
    /// Lets every sequential module plan, and shows it.
    pub(super) async fn plan_only(
        &mut self,
        plan: &RunPlan,
        validated: &Validated,
    ) -> Result<(), ModuleError> {
        self.prepared = Some(validated.prepared.share());
        for module in &plan.sequential {
            self.deps.log.stage(format!("plan:{}", module.name()));
            let ctx =
                validated.prepared.context(&self.deps, module.as_ref(), &validated.gates, &self.watch.cancel);
            match self.watch.drive(module.plan(&ctx)).await {
                Ok(plan) => {
                    let text = format!("would do: {}", plan.summary);
                    self.deps.log.plan(module.name().clone(), plan);
                    self.record(module.as_ref(), ModuleResult::Success, &text);
                }
                Err(error) => {
                    self.record(module.as_ref(), ModuleResult::Failed, &error.to_string());
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
