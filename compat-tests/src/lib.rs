//! Fixtures for the tests.
