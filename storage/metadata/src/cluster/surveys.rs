//! Surveys: each node tells all that it has, page by page. What nothing needs is only counted at first. Once all nodes have told, it is
//! deleted in a second survey, unless it is so much on any of them that it is rather the namespace that is an old one: then everything
//! is kept until a superuser says otherwise. His word is for the surveys of one pass, and ends with each of them.

use std::collections::BTreeMap;

use strongroom_proto::{NodeId, metadata::v1::TellReplicas};

/// Times that a page may fail before a survey is given up until the next pass.
const FAILURES_MAX: u32 = 5;

/// How much of what a node has may be deleted because nothing needs it: the greater of the two.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) blocks: u64,
    pub(crate) percent: u64,
}

/// What a node told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Blocks that it has.
    pub(crate) blocks: u64,
    /// Those that nothing needs.
    pub(crate) strays: u64,
    /// Files that its disk could not read.
    pub(crate) unreadable: u64,
}

/// What was counted on a node, and whether that is kept though nothing needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) node: NodeId,
    pub(crate) told: Told,
    pub(crate) is_kept: bool,
}

/// The surveys under way. In memory only: they begin anew after a restart.
#[derive(Debug, Default)]
pub(crate) struct Surveys {
    of_nodes: BTreeMap<NodeId, Survey>,
}

#[derive(Debug, Default)]
struct Survey {
    from: TellReplicas,
    stage: Stage,
    told: Told,
    failures: u32,
    /// However much nothing needs, it is deleted.
    is_unbounded: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Counting,
    /// Waits for the other nodes.
    Counted,
    Deleting {
        left: u64,
    },
}

impl Bounds {
    fn of(self, blocks: u64) -> u64 {
        self.blocks.max(blocks.saturating_mul(self.percent) / 100)
    }
}

impl Surveys {
    /// Has nodes tell all that they have, unless they are at that. What nothing needs is deleted however much it is if that is `unbounded`,
    /// also by surveys of these nodes that are under way.
    pub(crate) fn begin(&mut self, nodes: &[NodeId], unbounded: bool) {
        for node in nodes {
            let survey = self.of_nodes.entry(node.clone()).or_default();
            survey.is_unbounded |= unbounded;
            if let Stage::Deleting { left } = &mut survey.stage
                && unbounded
            {
                *left = u64::MAX;
            }
        }
    }

    /// Which nodes are to be asked, and from where on. Those that fell silent are not waited for.
    pub(crate) fn next_pages(&mut self, alive: &[NodeId]) -> Vec<(NodeId, TellReplicas)> {
        self.of_nodes.retain(|node, _| alive.contains(node));
        let is_counting = self.is_counting();
        let asked = self.of_nodes.iter().filter(|(_, survey)| match survey.stage {
            Stage::Counting => true,
            Stage::Counted => false,
            Stage::Deleting { .. } => !is_counting,
        });
        asked
            .map(|(node, survey)| (node.clone(), survey.from.clone()))
            .collect()
    }

    fn is_counting(&self) -> bool {
        self.of_nodes.values().any(|survey| survey.stage == Stage::Counting)
    }

    /// How many blocks of a page may be deleted.
    pub(crate) fn may_delete(&self, node: &NodeId) -> u64 {
        match self.of_nodes.get(node).map(|survey| &survey.stage) {
            Some(Stage::Deleting { left }) => *left,
            _ => 0,
        }
    }

    /// A node's page was dealt with: it goes on from `next`, or has told all.
    pub(crate) fn surveyed(&mut self, node: &NodeId, page: Told, deleted: u64, next: Option<TellReplicas>) {
        let Some(survey) = self.of_nodes.get_mut(node) else {
            return;
        };
        let is_end = next.is_none();
        survey.from = next.unwrap_or_default();
        survey.failures = 0;
        match &mut survey.stage {
            Stage::Counting => {
                survey.told.blocks += page.blocks;
                survey.told.strays += page.strays;
                survey.told.unreadable += page.unreadable;
                if is_end {
                    survey.stage = Stage::Counted;
                }
            }
            Stage::Counted => {}
            Stage::Deleting { left } => {
                *left = left.saturating_sub(deleted);
                if is_end {
                    self.of_nodes.remove(node);
                }
            }
        }
    }

    /// A node could not tell, or did not answer.
    pub(crate) fn failed(&mut self, node: &NodeId) {
        if let Some(survey) = self.of_nodes.get_mut(node) {
            survey.failures += 1;
            if survey.failures == FAILURES_MAX {
                tracing::error!(%node, from = ?survey.from, "a block node cannot tell what it has; it is asked again with the next comparison");
                self.of_nodes.remove(node);
            }
        }
    }

    /// Once all have told: what was counted on each. What nothing needs is deleted next, unless it is too much on one of them.
    pub(crate) fn decide(&mut self, bounds: Bounds) -> Vec<Counted> {
        if self.is_counting() {
            return Vec::new();
        }
        let mut counted = self.of_nodes.values().filter(|survey| survey.stage == Stage::Counted);
        let is_too_much = counted.any(|survey| survey.told.strays > bounds.of(survey.told.blocks));
        let mut decided = Vec::new();
        self.of_nodes.retain(|node, survey| {
            if survey.stage != Stage::Counted {
                return true;
            }
            let told = survey.told;
            let is_kept = is_too_much && !survey.is_unbounded && told.strays > 0;
            let left = if survey.is_unbounded {
                u64::MAX
            } else {
                bounds.of(told.blocks)
            };
            survey.stage = Stage::Deleting { left };
            decided.push(Counted {
                node: node.clone(),
                told,
                is_kept,
            });
            told.strays > 0 && !is_kept
        });
        decided
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { blocks: 2, percent: 10 };

    fn nodes() -> [NodeId; 2] {
        ["a", "b"].map(|node| node.parse().expect("valid"))
    }

    const fn told(blocks: u64, strays: u64) -> Told {
        Told {
            blocks,
            strays,
            unreadable: 0,
        }
    }

    #[test]
    fn nothing_is_deleted_before_all_have_told_and_then_within_bounds() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        surveys.begin(&nodes(), false);
        let more = TellReplicas { fan: 3, after: None };
        surveys.surveyed(&a, told(50, 4), 0, Some(more.clone()));
        assert_eq!(
            surveys.next_pages(&nodes()),
            [(a.clone(), more), (b.clone(), TellReplicas::default())]
        );
        surveys.surveyed(&a, told(50, 6), 0, None);
        assert_eq!((surveys.decide(BOUNDS), surveys.may_delete(&a)), (Vec::new(), 0));
        surveys.surveyed(&b, told(5, 0), 0, None);
        let decided = surveys.decide(BOUNDS);
        assert!(
            decided.len() == 2 && decided.iter().all(|counted| !counted.is_kept),
            "{decided:?}"
        );
        assert_eq!(surveys.next_pages(&nodes()), [(a.clone(), TellReplicas::default())]);
        assert_eq!((surveys.may_delete(&a), surveys.may_delete(&b)), (10, 0));
        surveys.surveyed(&a, told(50, 6), 6, Some(TellReplicas::default()));
        assert_eq!(surveys.may_delete(&a), 4, "what came since is deleted next time");
        surveys.surveyed(&a, told(50, 6), 4, None);
        assert_eq!(surveys.next_pages(&nodes()), []);
    }

    #[test]
    fn too_much_on_one_keeps_all_until_somebody_says_otherwise() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        for unbounded in [false, true] {
            surveys.begin(&nodes(), unbounded);
            surveys.surveyed(&a, told(10, 3), 0, None);
            surveys.surveyed(&b, told(100, 1), 0, None);
            let decided = surveys.decide(BOUNDS);
            assert!(
                decided.iter().all(|counted| counted.is_kept != unbounded),
                "{decided:?}"
            );
            assert_eq!(surveys.next_pages(&nodes()).len(), if unbounded { 2 } else { 0 });
        }
        assert_eq!(surveys.may_delete(&a), u64::MAX);
    }

    #[test]
    fn a_word_ends_with_the_surveys_that_it_was_given_for() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        surveys.begin(&nodes(), true);
        for node in &nodes() {
            surveys.surveyed(node, told(10, 5), 0, None);
        }
        assert!(surveys.decide(BOUNDS).iter().all(|counted| !counted.is_kept));
        surveys.surveyed(&a, told(10, 5), 5, None);
        // The next pass, while one is at it still.
        surveys.begin(&nodes(), false);
        surveys.surveyed(&a, told(10, 5), 0, None);
        let decided = surveys.decide(BOUNDS);
        assert!(decided.len() == 1 && decided[0].is_kept, "{decided:?}");
        assert_eq!((surveys.may_delete(&a), surveys.may_delete(&b)), (0, u64::MAX));
        surveys.surveyed(&b, told(10, 5), 5, None);
        surveys.begin(&nodes(), false);
        surveys.surveyed(&a, told(10, 2), 0, None);
        surveys.surveyed(&b, told(10, 1), 0, None);
        surveys.decide(BOUNDS);
        assert_eq!((surveys.may_delete(&a), surveys.may_delete(&b)), (2, 2));
        surveys.begin(std::slice::from_ref(&b), true);
        assert_eq!((surveys.may_delete(&a), surveys.may_delete(&b)), (2, u64::MAX));
    }

    #[test]
    fn nodes_that_fail_or_fall_silent_are_not_waited_for() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        surveys.begin(&nodes(), false);
        for _ in 0..FAILURES_MAX {
            assert!(surveys.next_pages(&nodes()).len() == 2);
            surveys.failed(&a);
        }
        assert_eq!(surveys.next_pages(&[a, b.clone()]).len(), 1);
        assert_eq!(surveys.next_pages(&[]), []);
        assert_eq!(surveys.next_pages(&[b]), [], "until the next pass");
    }
}
