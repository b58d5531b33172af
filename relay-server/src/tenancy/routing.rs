//! Where the events of one source go: its routes, ready to be asked.

use std::sync::Arc;

use protocol::id::DestinationId;

use super::{Invalid, Route};
use crate::lifecycle::{
    RouteDecision,
    filter::{BodyView, Shape, Subject},
};

/// Terms of all filters of one source: what accepting one event may cost.
const TERMS_MAX: usize = 1_000;

/// Routes of one source.
const ROUTES_PER_SOURCE_MAX: usize = 250;

/// The routes of a source.
#[derive(Debug, Default)]
pub struct Routing {
    /// Oldest first.
    routes: Vec<Arc<Route>>,
    shape: Shape,
}

/// Where one event goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// Each once. Empty: no route takes the event.
    pub destinations: Vec<DestinationId>,
    /// What every route said.
    pub decisions: Vec<RouteDecision>,
    /// What the filters saw of the body.
    pub body: BodyView,
}

impl Routing {
    pub(super) fn new(routes: Vec<Arc<Route>>) -> Self {
        let shape = Shape::of(routes.iter().filter_map(|route| route.filter.as_deref()));
        Self { routes, shape }
    }

    /// Refuses more than one source may have.
    pub(super) fn check<'r>(
        routes: impl Iterator<Item = &'r Route> + Clone,
    ) -> Result<(), Invalid> {
        if routes.clone().count() > ROUTES_PER_SOURCE_MAX {
            let why = format!("a source may have at most {ROUTES_PER_SOURCE_MAX} routes");
            return Err(Invalid::new("source", why));
        }
        let filters = routes.filter_map(|route| route.filter.as_deref());
        if filters.map(|filter| filter.terms()).sum::<usize>() > TERMS_MAX {
            let why =
                format!("the filters of one source may have at most {TERMS_MAX} terms together");
            return Err(Invalid::new("filter", why));
        }
        Ok(())
    }

    /// Whether it still shows these routes.
    pub(super) fn is_of(&self, routes: &[Arc<Route>]) -> bool {
        let same = |(one, two): (&Arc<Route>, &Arc<Route>)| Arc::ptr_eq(one, two);
        self.routes.len() == routes.len() && self.routes.iter().zip(routes).all(same)
    }

    /// Where events may go, each once.
    pub fn destinations(&self) -> Vec<DestinationId> {
        let mut destinations = Vec::new();
        for route in &self.routes {
            if !destinations.contains(&route.destination) {
                destinations.push(route.destination);
            }
        }
        destinations
    }

    /// Asks every route about an event.
    pub fn route(&self, event: &Subject<'_>) -> Routed {
        let (picked, body) = self.shape.pick(event);
        let mut routed = Routed {
            destinations: Vec::new(),
            decisions: Vec::with_capacity(self.routes.len()),
            body,
        };
        for route in &self.routes {
            let tested = match &route.filter {
                Some(filter) => filter.test(&picked),
                None => Ok(()),
            };
            if tested.is_ok() && !routed.destinations.contains(&route.destination) {
                routed.destinations.push(route.destination);
            }
            routed.decisions.push(RouteDecision::new(route.id, tested));
        }
        routed
    }
}
