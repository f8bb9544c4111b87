"""What more than one role needs: options, facts and operations, and the types handed between roles."""
