//! What will run, in which order: pure.

use std::sync::Arc;

use pc_switcher_contract::{BracketPhase, Module, ModuleName, ModuleSpec, Place, Role};

use crate::config::Config;

/// All modules of one run.
pub struct RunPlan {
    /// Beside the run.
    pub background: Vec<Arc<dyn Module>>,
    /// Before the first change, on both machines.
    pub pre: Vec<Arc<dyn Module>>,
    /// The user's modules, in the order of the config.
    pub sequential: Vec<Arc<dyn Module>>,
    /// After the last change, on the target.
    pub post_target: Vec<Arc<dyn Module>>,
    /// After verification, on the source.
    pub post_source: Vec<Arc<dyn Module>>,
}

impl RunPlan {
    /// Builds every module from its checked table. `enabled` are the sequential ones, in order; brackets and background
    /// modules always run.
    ///
    /// # Errors
    /// If a module refuses its table, which the schema check should have found.
    pub fn build(specs: &[ModuleSpec], enabled: &[ModuleName], config: &Config) -> Result<Self, String> {
        let mut plan = Self {
            background: vec![],
            pre: vec![],
            sequential: vec![],
            post_target: vec![],
            post_source: vec![],
        };
        for spec in specs {
            let table = config.table(&spec.name);
            match (spec.place, &spec.build_bracket) {
                (Place::Background, _) => plan.background.push((spec.build)(table)?),
                (Place::Bracket, Some(build)) => {
                    plan.pre.push(build(table, BracketPhase::Pre)?);
                    plan.post_target.push(build(table, BracketPhase::Post(Role::Target))?);
                    plan.post_source.push(build(table, BracketPhase::Post(Role::Source))?);
                }
                (Place::Bracket, None) => return Err(format!("the bracket `{}` has no phases", spec.name)),
                (Place::Sequential, _) => {}
            }
        }
        for name in enabled {
            let spec = specs.iter().find(|spec| spec.name == *name && spec.place == Place::Sequential);
            let spec = spec.ok_or_else(|| format!("there is no module `{name}`"))?;
            plan.sequential.push((spec.build)(config.table(name))?);
        }
        Ok(plan)
    }

    /// Returns the modules that validate, the user's first: they say which folders the others watch over.
    pub fn validating(&self) -> impl Iterator<Item = &Arc<dyn Module>> {
        self.sequential.iter().chain(&self.pre).chain(&self.background)
    }
}
