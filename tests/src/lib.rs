//! Journeys across real processes, fault injection and fixtures.
