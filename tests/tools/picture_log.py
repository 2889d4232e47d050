"""A log that keeps what is drawn, for the tests of pictures."""


class Log:
    """Refuses a picture that is there, as a run that goes on would draw it twice."""

    def __init__(self):
        self.drawn = {}

    def has_picture(self, step, name):
        return (step, name) in self.drawn

    def pictures(self, step, name, picture):
        assert (step, name) not in self.drawn
        self.drawn[step, name] = picture
