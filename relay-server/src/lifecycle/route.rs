//! What the routes of a source said to an event.

use protocol::id::RouteId;

/// The longest place of an unmet term that is kept, in bytes.
const UNMET_BYTES_MAX: usize = 256;

/// What a route said to an event when it was accepted. Kept with the event: later changes of the
/// route do not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteDecision {
    /// Which route.
    pub route: RouteId,
    /// The term of its filter that the event does not meet, as a JSON pointer; none if the route
    /// takes the event.
    pub unmet: Option<String>,
}

impl RouteDecision {
    /// The outcome of testing an event.
    pub fn new(route: RouteId, tested: Result<(), &str>) -> Self {
        let clip = |place: &str| place[..place.floor_char_boundary(UNMET_BYTES_MAX)].to_owned();
        Self {
            route,
            unmet: tested.err().map(clip),
        }
    }

    /// Whether the route takes the event.
    pub fn is_taken(&self) -> bool {
        self.unmet.is_none()
    }
}
