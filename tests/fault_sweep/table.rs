//! What a sync promises for each sort of call that goes wrong (the table of the fault sweep).
