"""Users: who somebody is, and what he may do. What each front asks before it acts."""
