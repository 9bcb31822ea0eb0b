//! Surveys: each node tells all that it has, page by page. What nothing needs is only counted at first. Once every node has told that is
//! known and not gone, it is deleted in a second survey, unless it is so much on any of them that it is rather the namespace that is an
//! old one: then everything is kept until a superuser says otherwise. His word is for one survey, and ends with it.
//!
//! As long as a node does not tell, nothing is deleted on any: it may be the one that has more than it should. Who is silent is waited for
//! until he is gone, or, but for a superuser's word, until the next comparison begins. Nothing else waits for that: what is missing is
//! copied meanwhile.

use std::collections::{BTreeMap, BTreeSet};

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

/// Why nothing is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// It is more than the bounds allow.
    TooMuch,
    /// Not all nodes told what they have.
    Untold,
}

/// What was counted on all nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Nothing of nodes that did not tell all.
    pub(crate) of_nodes: BTreeMap<NodeId, Option<Told>>,
    /// None if what nothing needs is deleted now.
    pub(crate) kept: Option<Kept>,
    /// A superuser lifted the bounds.
    pub(crate) is_unbounded: bool,
}

/// The survey under way, of all nodes. In memory only: it begins anew after a restart.
#[derive(Debug, Default)]
pub(crate) struct Surveys {
    stage: Stage,
    of_nodes: BTreeMap<NodeId, Survey>,
    /// However much nothing needs, it is deleted.
    is_unbounded: bool,
    /// Another comparison began since: who is silent is not waited for any longer.
    is_overdue: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Idle,
    Counting,
    Deleting,
}

/// One node's part in a stage.
#[derive(Debug, Default)]
struct Survey {
    progress: Progress,
    from: TellReplicas,
    told: Told,
    failures: u32,
    /// While it is deleted: how much nothing may need here, and how much of it is deleted.
    strays_max: u64,
    deleted: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Progress {
    #[default]
    Telling,
    ToldAll,
    CannotTell,
}

impl Bounds {
    fn of(self, blocks: u64) -> u64 {
        self.blocks.max(blocks.saturating_mul(self.percent) / 100)
    }
}

impl Told {
    fn add(&mut self, page: Self) {
        self.blocks += page.blocks;
        self.strays += page.strays;
        self.unreadable += page.unreadable;
    }
}

impl Surveys {
    /// Has all nodes tell what they have, unless they are at that. What nothing needs is deleted however much it is if that is
    /// `unbounded`: then all of them begin anew.
    pub(crate) fn begin(&mut self, unbounded: bool) {
        if self.stage != Stage::Idle && !unbounded {
            // A superuser's word waits longer: he would have to give it again.
            self.is_overdue = !self.is_unbounded;
            return;
        }
        *self = Self {
            stage: Stage::Counting,
            is_unbounded: unbounded,
            ..Self::default()
        };
    }

    /// Whether a superuser's word is being carried out.
    pub(crate) const fn is_unbounded(&self) -> bool {
        self.is_unbounded
    }

    /// Which nodes are to be asked, and from where on. `known` are those that are not gone, all of which have to tell; `heard` are those
    /// that report.
    pub(crate) fn next_pages(
        &mut self,
        known: &BTreeSet<NodeId>,
        heard: &BTreeSet<NodeId>,
    ) -> Vec<(NodeId, TellReplicas)> {
        match self.stage {
            Stage::Idle => {}
            Stage::Counting => {
                self.of_nodes.retain(|node, _| known.contains(node));
                for node in known {
                    let survey = self.of_nodes.entry(node.clone()).or_default();
                    if survey.progress == Progress::Telling && !heard.contains(node) {
                        // It may come back with another disk.
                        *survey = Survey::default();
                    }
                }
            }
            Stage::Deleting => {
                let is_overdue = self.is_overdue;
                let is_waited_for = |node: &NodeId| known.contains(node) && (!is_overdue || heard.contains(node));
                self.of_nodes.retain(|node, _| is_waited_for(node));
                self.end_if_through();
            }
        }
        let telling = self
            .of_nodes
            .iter()
            .filter(|(_, survey)| survey.progress == Progress::Telling);
        let asked = telling.filter(|(node, _)| heard.contains(*node));
        asked
            .map(|(node, survey)| (node.clone(), survey.from.clone()))
            .collect()
    }

    /// Whether a node's page from there on is waited for.
    pub(crate) fn is_asking(&self, node: &NodeId, from: &TellReplicas) -> bool {
        self.asked(node, from).is_some()
    }

    fn asked(&self, node: &NodeId, from: &TellReplicas) -> Option<&Survey> {
        let survey = self.of_nodes.get(node)?;
        (survey.progress == Progress::Telling && survey.from == *from).then_some(survey)
    }

    /// How many blocks of a page may be deleted.
    pub(crate) fn may_delete(&self, node: &NodeId, from: &TellReplicas) -> u64 {
        match self.asked(node, from) {
            Some(survey) if self.stage == Stage::Deleting => survey.strays_max.saturating_sub(survey.deleted),
            _ => 0,
        }
    }

    /// A node's page `from` there on was dealt with, unless it is waited for no more: the node goes on from `next`, or has told all.
    pub(crate) fn surveyed(
        &mut self,
        node: &NodeId,
        from: &TellReplicas,
        page: Told,
        deleted: u64,
        next: Option<TellReplicas>,
    ) {
        if !self.is_asking(node, from) {
            return;
        }
        let Some(survey) = self.of_nodes.get_mut(node) else {
            return;
        };
        survey.told.add(page);
        survey.deleted += deleted;
        survey.failures = 0;
        match next {
            Some(next) => survey.from = next,
            None => survey.progress = Progress::ToldAll,
        }
        if self.stage != Stage::Deleting {
            return;
        }
        let is_too_much = survey.told.strays > survey.strays_max;
        if survey.progress == Progress::ToldAll {
            self.of_nodes.remove(node);
        }
        if is_too_much {
            tracing::error!(%node, "what nothing needs became too much while it was deleted: no more is, on any node, before all is counted again");
            self.end();
        }
        self.end_if_through();
    }

    /// A node could not tell, or did not answer.
    pub(crate) fn failed(&mut self, node: &NodeId) {
        let Some(survey) = self.of_nodes.get_mut(node) else {
            return;
        };
        survey.failures += 1;
        if survey.failures < FAILURES_MAX || survey.progress != Progress::Telling {
            return;
        }
        tracing::error!(%node, from = ?survey.from, "a block node cannot tell what it has; it is asked again with the next comparison");
        survey.progress = Progress::CannotTell;
        if self.stage == Stage::Deleting {
            self.of_nodes.remove(node);
            self.end_if_through();
        }
    }

    /// Once all have told that are waited for: what was counted. What nothing needs is deleted next, unless that is `kept`.
    pub(crate) fn decide(&mut self, bounds: Bounds, heard: &BTreeSet<NodeId>) -> Option<Decision> {
        let is_waited_for = |(node, survey): (&NodeId, &Survey)| {
            survey.progress == Progress::Telling && (!self.is_overdue || heard.contains(node))
        };
        let is_through = !self.of_nodes.is_empty() && !self.of_nodes.iter().any(is_waited_for);
        if self.stage != Stage::Counting || !is_through {
            return None;
        }
        let told = |survey: &Survey| (survey.progress == Progress::ToldAll).then_some(survey.told);
        let of_nodes: BTreeMap<_, _> = self
            .of_nodes
            .iter()
            .map(|(node, survey)| (node.clone(), told(survey)))
            .collect();
        let mut all = of_nodes.values().flatten();
        let kept = if !self.is_unbounded && all.any(|told| told.strays > bounds.of(told.blocks)) {
            Some(Kept::TooMuch)
        } else if of_nodes.values().any(Option::is_none) {
            Some(Kept::Untold)
        } else {
            None
        };
        let decision = Decision {
            of_nodes,
            kept,
            is_unbounded: self.is_unbounded,
        };
        if kept.is_some() {
            *self = Self::default();
        } else {
            self.delete(bounds);
        }
        Some(decision)
    }

    fn delete(&mut self, bounds: Bounds) {
        self.stage = Stage::Deleting;
        self.of_nodes.retain(|_, survey| survey.told.strays > 0);
        for survey in self.of_nodes.values_mut() {
            let strays_max = if self.is_unbounded {
                u64::MAX
            } else {
                bounds.of(survey.told.blocks)
            };
            *survey = Survey {
                strays_max,
                ..Survey::default()
            };
        }
        self.end_if_through();
    }

    fn end_if_through(&mut self) {
        if self.stage == Stage::Deleting && self.of_nodes.is_empty() {
            self.end();
        }
    }

    fn end(&mut self) {
        if self.is_unbounded {
            tracing::warn!(
                "a superuser's word that what nothing needs is deleted, however much it is, was carried out and has ended"
            );
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { blocks: 2, percent: 10 };
    const START: TellReplicas = TellReplicas { fan: 0, after: None };

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

    const fn page(fan: u32) -> TellReplicas {
        TellReplicas { fan, after: None }
    }

    /// Asks the nodes of which `heard` report for their next pages, and says whom.
    fn ask(surveys: &mut Surveys, heard: &[&NodeId]) -> Vec<(NodeId, TellReplicas)> {
        let heard = heard.iter().map(|node| (*node).clone()).collect();
        surveys.next_pages(&nodes().into(), &heard)
    }

    /// What is decided while all report.
    fn decide(surveys: &mut Surveys) -> Option<Decision> {
        surveys.decide(BOUNDS, &nodes().into())
    }

    /// Two nodes have told all, in a page each.
    fn counted(surveys: &mut Surveys, unbounded: bool, strays: [u64; 2]) -> Decision {
        let [a, b] = &nodes();
        surveys.begin(unbounded);
        assert_eq!(ask(surveys, &[a, b]).len(), 2);
        for (node, strays) in [a, b].into_iter().zip(strays) {
            assert_eq!(decide(surveys), None, "not all have told");
            surveys.surveyed(node, &START, told(10, strays), 0, None);
        }
        decide(surveys).expect("all have told")
    }

    #[test]
    fn nothing_is_deleted_before_all_have_told_and_then_within_bounds() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        assert_eq!(ask(&mut surveys, &[&a, &b]), []);
        surveys.begin(false);
        let both = [(a.clone(), START), (b.clone(), START)];
        assert_eq!(ask(&mut surveys, &[&a, &b]), both);
        surveys.surveyed(&a, &START, told(50, 4), 0, Some(page(3)));
        assert_eq!(ask(&mut surveys, &[&a, &b])[0], (a.clone(), page(3)));
        surveys.surveyed(&a, &page(3), told(50, 5), 0, None);
        assert_eq!((decide(&mut surveys), surveys.may_delete(&a, &START)), (None, 0));
        surveys.surveyed(&b, &START, told(5, 0), 0, None);
        let decision = decide(&mut surveys).expect("all have told");
        let of_nodes = [(a.clone(), Some(told(100, 9))), (b.clone(), Some(told(5, 0)))];
        assert_eq!((decision.of_nodes, decision.kept), (of_nodes.into(), None));
        assert_eq!(ask(&mut surveys, &[&a, &b]), [(a.clone(), START)]);
        let may_delete = |surveys: &Surveys| (surveys.may_delete(&a, &START), surveys.may_delete(&b, &START));
        assert_eq!(may_delete(&surveys), (10, 0));
        surveys.surveyed(&a, &START, told(50, 6), 6, Some(page(3)));
        assert_eq!(may_delete(&surveys), (0, 0), "that page was dealt with");
        assert_eq!(surveys.may_delete(&a, &page(3)), 4);
        surveys.surveyed(&a, &page(3), told(50, 4), 4, None);
        assert_eq!(ask(&mut surveys, &[&a, &b]), []);
    }

    #[test]
    fn too_much_on_one_keeps_all_until_somebody_says_otherwise() {
        let (both, mut surveys) = (nodes(), Surveys::default());
        for unbounded in [false, true, false] {
            let decision = counted(&mut surveys, unbounded, [3, 1]);
            let kept = if unbounded { None } else { Some(Kept::TooMuch) };
            assert_eq!((decision.kept, decision.is_unbounded), (kept, unbounded));
            let most = if unbounded { u64::MAX } else { 0 };
            for node in &both {
                assert_eq!(surveys.may_delete(node, &START), most);
                surveys.surveyed(node, &START, told(10, 3), 3, None);
            }
        }
    }

    /// One survey is through before the next begins, but for the word of a superuser, with which all begin anew.
    #[test]
    fn a_word_is_for_one_survey() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        assert_eq!(counted(&mut surveys, false, [1, 1]).kept, None);
        surveys.begin(false);
        assert_eq!(surveys.may_delete(&a, &START), 2, "it goes on");
        assert_eq!(counted(&mut surveys, true, [5, 5]).kept, None);
        surveys.surveyed(&a, &START, told(10, 5), 5, None);
        surveys.begin(false);
        assert_eq!(surveys.may_delete(&b, &START), u64::MAX, "it goes on");
        surveys.surveyed(&b, &START, told(10, 5), 5, None);
        assert_eq!(counted(&mut surveys, false, [5, 5]).kept, Some(Kept::TooMuch));
    }

    #[test]
    fn what_becomes_too_much_is_deleted_nowhere_any_more() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        assert_eq!(counted(&mut surveys, false, [1, 2]).kept, None);
        surveys.surveyed(&a, &START, told(10, 3), 2, Some(page(3)));
        assert_eq!(surveys.may_delete(&b, &START), 0);
        assert_eq!(ask(&mut surveys, &[&a, &b]), []);
    }

    #[test]
    fn who_cannot_tell_keeps_everything_everywhere() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        for unbounded in [false, true] {
            surveys.begin(unbounded);
            for _ in 0..FAILURES_MAX {
                assert_eq!(ask(&mut surveys, &[&a, &b]).len(), 2);
                surveys.failed(&a);
            }
            assert_eq!(ask(&mut surveys, &[&a, &b]), [(b.clone(), START)]);
            surveys.surveyed(&a, &START, told(10, 0), 0, None);
            surveys.surveyed(&b, &START, told(10, 1), 0, None);
            let decision = decide(&mut surveys).expect("nobody is waited for");
            assert_eq!((decision.of_nodes[&a], decision.kept), (None, Some(Kept::Untold)));
            assert_eq!(ask(&mut surveys, &[&a, &b]), [], "until the next pass");
        }
    }

    #[test]
    fn who_is_silent_is_waited_for_until_he_is_gone_or_the_next_pass_begins() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        let heard = BTreeSet::from([b.clone()]);
        for is_gone in [false, true] {
            surveys.begin(false);
            ask(&mut surveys, &[&a, &b]);
            surveys.surveyed(&a, &START, told(10, 0), 0, Some(page(3)));
            assert_eq!(ask(&mut surveys, &[&b]), [(b.clone(), START)]);
            surveys.surveyed(&b, &START, told(10, 1), 0, None);
            assert_eq!(surveys.decide(BOUNDS, &heard), None);
            assert_eq!(ask(&mut surveys, &[&a, &b]), [(a.clone(), START)], "from the beginning");
            if is_gone {
                surveys.next_pages(&heard, &heard);
            } else {
                surveys.begin(false);
                assert_eq!(decide(&mut surveys), None, "who reports is waited for");
            }
            let kept = surveys.decide(BOUNDS, &heard).expect("nobody is waited for").kept;
            assert_eq!(kept.is_none(), is_gone);
        }
        assert_eq!(surveys.may_delete(&b, &START), 2);
        assert_eq!(ask(&mut surveys, &[&a]), []);
        assert_eq!(surveys.may_delete(&b, &START), 2, "it is waited for");
        surveys.begin(false);
        assert_eq!(ask(&mut surveys, &[&a]), []);
        assert_eq!(surveys.may_delete(&b, &START), 0, "until the next pass begins");
    }

    /// An answer counts for the page that was asked for, and once.
    #[test]
    fn an_answer_that_is_not_waited_for_does_not_count() {
        let ([a, b], mut surveys) = (nodes(), Surveys::default());
        surveys.begin(false);
        ask(&mut surveys, &[&a, &b]);
        surveys.surveyed(&a, &page(200), told(10, 3), 0, None);
        assert_eq!(
            ask(&mut surveys, &[&a, &b]).len(),
            2,
            "it was the end of an older survey"
        );
        surveys.surveyed(&a, &START, told(10, 1), 0, Some(page(3)));
        surveys.surveyed(&a, &START, told(10, 1), 0, Some(page(3)));
        surveys.surveyed(&a, &page(3), told(10, 0), 0, None);
        surveys.surveyed(&b, &START, told(10, 0), 0, None);
        let decision = decide(&mut surveys).expect("all have told");
        assert_eq!(decision.of_nodes[&a], Some(told(20, 1)));
    }
}
